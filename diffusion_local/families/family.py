"""The record of a family of models: every fact about it that needs neither weights nor torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.option import DENOISED
from diffusion_local.options.samplers import DIFFUSION, Sampling
from diffusion_local.options.types import Kind

#: Gives the ``config.json`` of a part of a diffusers folder (``unet``, ``transformer``); empty where there is none.
Configs = Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A variant of a family: models that take the same adapters.

    ``adapters`` is the architecture that adapter files name when they fit this one; empty: its own id. Adapters that
    name the family's id fit all of its architectures. ``problem`` is the sentence shown where it cannot be run although
    its family can. ``tokens`` replaces the family's limit. ``references`` is the number of pictures that its models
    read beside the prompt, and ``needs_reference`` says that they need one. ``kinds`` of
    work are those that they can do. ``like`` is the architecture whose
    configurations its files have.

    ``parts`` are the text encoders and the VAE that the denoiser needs beside itself, by their ids in
    ``models.parts``, the VAE last. Files are recognised by the remaining fields, each empty where it does not apply:

    - ``signs``: a transformer's file, alone or with other parts. UNets are identified by ``models.probe``;
    - ``loras``: LoRAs; ``lora_words``: parts of the base model's name in their metadata, in lower case;
    - checkpoints with a UNet: ``text_width``, the width of the text that its cross attention reads (also in LoRAs), and
      ``encoders``, the prefixes of tensor names of all text encoders, of which one group must be complete;
    - textual inversions: ``token_width``, the width of one token's vector, and ``embedding_keys``, tensors that are
      all present.
    """

    title: str
    adapters: str = ""
    problem: str = ""
    tokens: int = 0
    references: int = 0
    needs_reference: bool = False
    kinds: tuple[Kind, ...] = DENOISED
    like: str = ""
    parts: tuple[str, ...] = ()
    signs: tuple[Sign, ...] = ()
    loras: tuple[LoraSign, ...] = ()
    lora_words: tuple[str, ...] = ()
    text_width: int = 0
    encoders: tuple[tuple[str, ...], ...] = ()
    token_width: int = 0
    embedding_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that are loaded, prompted and denoised by the same code. Its ``id`` is the name of its module.

    ``pipelines`` maps diffusers pipeline classes to the kinds of work that such a folder can do. ``problem`` is the
    sentence shown for a family that is recognised but not run; one without a problem has its engine half in
    ``engine.families`` under the same id. ``unet`` says that the denoiser is a UNet rather than a transformer.

    Checkpoints in one file are run where their architecture declares ``encoders``; a transformer's are recognised by
    the ``signs`` of their architectures.

    ``find_architecture`` tells the architecture of a diffusers folder by its configuration; None: it is the family's
    id. ``variants`` are pipeline classes whose models are of one architecture, whatever their configuration.

    ``original_names`` says that a transformer's file is loaded with the names of its authors too, not only diffusers'.
    ``undistilled`` are entries of ``model_index.json`` of models that were not distilled, which only their name tells.

    ``defaults`` hold for models that the curated list does not know. ``half`` says that the weights stay within fp16's
    range; other families run in bf16 where the device computes in it.

    Prompts: ``tokenizer`` is the folder of the text encoder that reads most, and ``tokens`` the pipeline's limit, start
    and end marks included (0: the tokenizer's own). ``weights`` says that ``(word:1.2)`` has an effect and that longer
    texts are read in parts, ``negative`` and ``clip_skip`` that these options have an effect, and ``loras`` that the
    pipeline takes LoRAs, in ``lora_layouts`` of ``models.lora_layers`` (empty: in all of them).
    """

    id: str
    title: str
    pipelines: Mapping[str, tuple[Kind, ...]]
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    problem: str = ""
    unet: bool = False
    find_architecture: Callable[[Configs], str] | None = None
    variants: Mapping[str, str] = field(default_factory=dict)
    undistilled: Mapping[str, Any] = field(default_factory=dict)
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
    original_names: bool = True
    lora_layouts: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        return not self.problem

    def architecture_of(self, configs: Configs, pipeline: str = "") -> str:
        if pipeline in self.variants:
            return self.variants[pipeline]
        return self.find_architecture(configs) if self.find_architecture else self.id


def every_kind(*pipelines: str) -> dict[str, tuple[Kind, ...]]:
    """Pipeline classes whose models can do all kinds of work."""
    return dict.fromkeys(pipelines, DENOISED)
