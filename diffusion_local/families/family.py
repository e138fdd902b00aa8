"""The record of a family of models: every fact about it that needs neither weights nor torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.option import DENOISED
from diffusion_local.options.samplers import DIFFUSION, Sampling
from diffusion_local.options.types import Kind

#: Gives the ``config.json`` of a part of a diffusers folder (``unet``, ``transformer``); empty where there is none.
Configs = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A variant of a family: models that take the same adapters.

    ``adapters`` is the architecture that adapter files name when they fit this one; empty: its own id. ``problem`` is
    the sentence shown where it cannot be run although its family can. ``tokens`` replaces the family's limit.

    Files are recognised by the remaining fields, each empty where it does not apply:

    - checkpoints: ``text_width``, the width of the text that the UNet's cross attention reads (also in LoRAs), and
      ``encoders``, the prefixes of tensor names of all text encoders; ``prediction`` is the ``prediction_type`` of
      checkpoints that do not state theirs;
    - LoRAs: ``lora_keys``, parts of tensor names; ``lora_prefixes``, beginnings of tensor names; ``lora_words``, parts
      of the base model's name in the metadata, in lower case;
    - textual inversions: ``token_width``, the width of one token's vector, and ``embedding_keys``, tensors that are
      all present.
    """

    title: str
    adapters: str = ""
    problem: str = ""
    tokens: int = 0
    text_width: int = 0
    encoders: tuple[str, ...] = ()
    prediction: str = ""
    lora_keys: tuple[str, ...] = ()
    lora_prefixes: tuple[str, ...] = ()
    lora_words: tuple[str, ...] = ()
    token_width: int = 0
    embedding_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that are loaded, prompted and denoised by the same code. Its ``id`` is the name of its module.

    ``pipelines`` maps diffusers pipeline classes to the kinds of work that such a folder can do. ``problem`` is the
    sentence shown for a family that is recognised but not run; one without a problem has its engine half in
    ``engine.families`` under the same id. ``unet`` says that the denoiser is a UNet rather than a transformer.

    Checkpoints in one file are run where their architecture declares ``encoders``. ``marker`` is a tensor that
    identifies a transformer's checkpoint, which is recognised and not run; files of a family with ``derived_from`` also
    hold the marker of that family.

    ``find_architecture`` tells the architecture of a diffusers folder by its configuration; None: it is the family's
    id.

    ``defaults`` hold for models that the curated list does not know. ``half`` says that the weights stay within fp16's
    range; other families run in bf16 where the device computes in it.

    Prompts: ``tokenizer`` is the folder of the text encoder that reads most, and ``tokens`` the pipeline's limit, start
    and end marks included (0: the tokenizer's own). ``weights`` says that ``(word:1.2)`` has an effect and that longer
    texts are read in parts, ``negative`` and ``clip_skip`` that these options have an effect, and ``loras`` that the
    pipeline takes LoRAs.
    """

    id: str
    title: str
    pipelines: Mapping[str, tuple[Kind, ...]]
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    problem: str = ""
    unet: bool = False
    marker: str = ""
    derived_from: str = ""
    find_architecture: Callable[[Configs], str] | None = None
    limits: Limits = field(default_factory=Limits)
    defaults: Defaults = field(default_factory=Defaults)
    sampling: Sampling = DIFFUSION
    half: bool = False
    tokenizer: str = "tokenizer"
    tokens: int = 0
    weights: bool = False
    negative: bool = True
    clip_skip: bool = False
    loras: bool = True

    @property
    def supported(self) -> bool:
        return not self.problem

    def architecture_of(self, configs: Configs) -> str:
        return self.find_architecture(configs) if self.find_architecture else self.id


def every_kind(*pipelines: str) -> dict[str, tuple[Kind, ...]]:
    """Pipeline classes whose models can do all kinds of work."""
    return dict.fromkeys(pipelines, DENOISED)
