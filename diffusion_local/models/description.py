"""Facts about a model that are read from its files, and the sources of its parts' weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_local.models.probe import Probe
from diffusion_local.options.option import DENOISED

#: File precisions, least lossy first; others come last.
PRECISION_ORDER = ("fp32", "bf16", "fp16", "Q8_0", "int8", "fp8_e4m3", "fp8_e5m2", "Q6_K", "Q5_K", "Q5_1", "Q5_0",
    "Q4_K", "Q4_1", "Q4_0", "nf4", "fp4")  # fmt: skip

#: The container of a part that is a diffusers folder.
FOLDER_LAYOUT = "folder"
#: States of an entry. A recognised model is known by name, but this version cannot run it yet.
MODEL_STATES = READY, INCOMPLETE, UNSUPPORTED, RECOGNISED = "ready", "incomplete", "unsupported", "recognised"


@dataclass(frozen=True, slots=True)
class Source:
    """The weights of one part of a model.

    ``slot``: the part's name in a diffusers folder (``text_encoder_2``); ``part``: its id in ``models.parts``, or
    ``denoiser``; ``path``: the part's diffusers folder, or the file in which its tensor names start with ``prefix``;
    ``count``: number of weights; ``size``: their bytes in the file.
    """

    slot: str
    part: str
    path: Path
    prefix: str = ""
    naming: str = ""
    container: str = "safetensors"
    precision: str = ""
    quantisation: str = ""
    count: int = 0
    size: int = 0

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sort key by precision, least lossy first: the file to use is the smallest by this key."""
        place = PRECISION_ORDER.index(self.precision) if self.precision in PRECISION_ORDER else len(PRECISION_ORDER)
        return place, self.path.name, str(self.path)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model. ``family`` and ``architecture``: ids in ``families``; the latter decides which adapters fit.

    ``config``: folder with the configuration and tokenizer of a single-file checkpoint; ``scheduler``: entries that
    differ from its scheduler configuration; ``changes``: other entries that differ from ``config``, by configuration
    file. ``memory_bytes``: all weights in fp16; ``precision``: that of most weights, in common notation. ``probe``:
    result of reading a file's header, None for a folder. ``sources``: sources of the parts of an assembled model;
    ``tokenizers``: folders by their names in a diffusers folder.
    """

    family: str = "unknown"
    architecture: str = "unknown"
    kinds: tuple[str, ...] = DENOISED
    size_bytes: int = 0
    memory_bytes: int = 0
    state: str = READY
    problem: str = ""
    title: str = ""
    licence: str = ""
    hub_id: str = ""
    config: Path | None = None
    scheduler: dict[str, Any] = field(default_factory=dict)
    probe: Probe | None = None
    precision: str = ""
    sources: tuple[Source, ...] = ()
    tokenizers: dict[str, Path] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


def not_supported(problem: str, **known: Any) -> ModelFacts:
    return ModelFacts(state=UNSUPPORTED, problem=problem, **known)


def recognised(problem: str, **known: Any) -> ModelFacts:
    return ModelFacts(state=RECOGNISED, problem=problem, **known)


def incomplete(problem: str, **known: Any) -> ModelFacts:
    return ModelFacts(state=INCOMPLETE, problem=problem, **known)
