"""A model in memory."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import previews
from diffusion_local.engine.encoders import TextEncoders
from diffusion_local.engine.family import Conditioning, EngineFamily
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.graphs import Graphs
from diffusion_local.engine.hooked import HookedAdapter
from diffusion_local.engine.precision import Form
from diffusion_local.engine.preview_decoders import PreviewDecoder
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora

#: Ends the name of weights that compute a pass in halves.
IN_HALVES = " in halves"


@dataclass(slots=True)
class Loaded:
    """A model in memory. ``bytes``: device memory of its weights; ``kept``: storage format of the denoiser's weights,
    if it differs from the compute dtype.

    ``prompts`` caches prompt embeddings. ``loras``, ``words`` (textual inversions) and ``vae`` are what is currently
    applied to it; ``hooked``: the adapters attached by hooks, by name; ``controls``: the latest pass' ControlNets by
    name, each with an identifier of its file's version; ``own_vae``: the model's original VAE and preview factors while
    another VAE is in use.
    """

    model: Model
    family: EngineFamily
    pipe: Any
    dtype: torch.dtype
    scheduler_config: dict[str, Any]
    factors: previews.Factors | None
    rung: str
    bytes: int = 0
    load_seconds: float | None = None
    kept: str = ""
    form: Form = field(default_factory=Form)
    #: Registry of the text encoders in memory, through which models share them. ``displaced``: another model has moved
    #: a shared encoder since this model used it.
    encoders: TextEncoders = field(default_factory=TextEncoders)
    displaced: bool = False
    graphs: Graphs = field(default_factory=Graphs)
    forms: Forms = field(default_factory=Forms)
    prompts: OrderedDict[Hashable, Conditioning] = field(default_factory=OrderedDict)
    loras: tuple[Lora, ...] = ()
    hooked: dict[str, HookedAdapter] = field(default_factory=dict)
    controls: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    vae: str = ""
    #: Names of the IP-Adapters in the UNet, their input in the current pass, and a cache of image embeddings.
    ip_adapters: tuple[str, ...] = ()
    seen: Any = None
    embeddings: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    #: Reference pictures (RGB) that the model reads in the current pass.
    pictures: list[PIL.Image] = field(default_factory=list)
    #: The decoder of a small VAE that draws the previews, if there is one.
    preview_decoder: PreviewDecoder | None = None
    own_vae: tuple[Any, previews.Factors | None] | None = None
    #: Number of changes of its weights, and whether the current pass is made in halves (see ``halves``).
    version: int = 0
    halved: bool = False
    #: Whether the latest picture passed its checks; if so, the next pass does not wait for its own.
    checked: bool = False

    @property
    def weights_name(self) -> str:
        """Identifies the dtype and storage format of the weights, and whether the pass is made in halves."""
        return f"{self.dtype} {self.form.denoiser} {self.form.encoders}" + IN_HALVES * self.halved

    def weights_change(self) -> None:
        """Call before weights of the denoiser or a text encoder change or move: drops fused forms and graphs."""
        self.version += 1
        self.forms.drop()
        self.graphs.forget()
