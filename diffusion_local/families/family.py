"""The description of a model family: all facts about it that need neither weights nor torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffusion_local.families.sign import LoraSign, Sign
from diffusion_local.options.limits import Defaults, Limits
from diffusion_local.options.option import DENOISED
from diffusion_local.options.samplers import DIFFUSION, Sampling
from diffusion_local.options.types import Kind

#: Returns the configuration of a component in a diffusers folder (``unet``, ``scheduler``); empty if missing.
Configs = Callable[[str], Mapping[str, Any]]
#: Kinds of networks that read a control picture.
CONTROL_NETS = ("ControlNet", "union", "T2I-Adapter")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A variant of a family: models that take the same adapters.

    ``adapters``: the architecture that adapter files name when they fit this one (default: its own id); adapters that
    name the family's id fit all of its architectures. ``problem``: why it cannot be run although its family can be.
    ``tokens`` overrides the family's limit. ``references``: number of pictures that its models read besides the prompt;
    ``needs_reference``: they require one. ``lacks``: features of the family (``controls``, ``regions`` and others)
    that they do not support. ``kinds``: supported kinds of work. ``like``: the architecture whose configurations its
    files use. ``sampling`` overrides the family's.

    ``parts``: ids (in ``models.parts``) of the text encoders and the VAE that the denoiser needs, the VAE last. Files
    are recognised by the remaining fields, each empty if it does not apply:

    - ``signs``: a transformer's file, alone or with other parts. UNets are identified by ``models.probe``;
    - ``loras``: LoRAs; ``lora_words``: parts of the base model's name in their metadata, in lower case;
    - checkpoints with a UNet: ``text_width``, the width of the text embeddings that its cross-attention reads (also in
      LoRAs), and ``encoders``, prefixes of the tensor names of all text encoders, of which one group must be complete;
    - textual inversions: ``token_width``, the width of one token's vector, and ``embedding_keys``, tensors that must
      all be present.
    """

    title: str
    adapters: str = ""
    problem: str = ""
    tokens: int = 0
    references: int = 0
    needs_reference: bool = False
    lacks: frozenset[str] = frozenset()
    kinds: tuple[Kind, ...] = DENOISED
    like: str = ""
    sampling: Sampling | None = None
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
    """Models that share the code for loading, prompting and denoising. ``id``: the name of its module.

    ``pipelines`` maps diffusers pipeline classes to the kinds of work that they support. ``problem``: the message for a
    family that is recognised but not run; a family without one has its engine half in ``engine.families`` under the
    same id. ``unet``: the denoiser is a UNet rather than a transformer.

    Single-file checkpoints with a UNet are run if their architecture declares ``encoders``; those of transformers are
    recognised by their architectures' ``signs``.

    ``find_architecture`` derives a diffusers folder's architecture from its configuration (None: the family's id).
    ``variants``: architecture of pipeline classes that always have the same one.

    ``original_names``: a transformer's file may use its authors' tensor names, not only diffusers'. ``undistilled``:
    entries of ``model_index.json`` that mark models as not distilled, where only their names differ otherwise.

    ``defaults`` apply to models that the curated list does not know. ``half``: the weights stay within fp16's range;
    other families run in bf16 if the device supports it.

    Prompts: ``tokenizer``: folder of the text encoder with the longest window; ``tokens``: the pipeline's limit, start
    and end marks included (0: the tokenizer's own). ``weights``: ``(word:1.2)`` is supported, and longer texts are
    encoded in parts; ``negative`` and ``clip_skip``: these options have an effect; ``loras``: the pipeline takes LoRAs,
    in ``lora_layouts`` of ``models.lora_layers`` (empty: all of them).

    Pictures: ``controls``: networks whose residuals the denoiser accepts, of CONTROL_NETS; ``regions``: regions may
    have prompts of their own; ``ip_adapters`` and ``inversions``: IP-Adapters and textual inversions are supported.
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
    controls: tuple[str, ...] = ()
    regions: bool = False
    ip_adapters: bool = False
    inversions: bool = False
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
    """Map these pipeline classes to all kinds of denoising work."""
    return dict.fromkeys(pipelines, DENOISED)
