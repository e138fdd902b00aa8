"""Facts of a model, read from its files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_local.models.probe import Probe
from diffusion_local.models.source import Source
from diffusion_local.options.option import DENOISED

#: States of an entry. What is recognised is known by name, and this version cannot run it yet.
STATES = READY, INCOMPLETE, UNSUPPORTED, RECOGNISED = "ready", "incomplete", "unsupported", "recognised"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """``family`` and ``architecture`` are ids of ``families``: how it is run, and which adapters fit it.

    ``config`` is the folder with the configuration and tokenizer of a single-file checkpoint; ``scheduler`` holds
    entries that differ from the scheduler's configuration there. ``memory_bytes`` is that of all weights in fp16.
    ``probe`` is what a file's header says, None for a folder; ``precision`` that of most weights, as people write it.
    ``sources`` are the files that it is put together from, ``tokenizers`` folders by their names in a diffusers folder,
    and ``changes`` entries that differ from those of ``config``, by the file that they are in.
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
