"""The facts about a weight file: kind, family, variant, precision, contained parts, and the shape of its UNet.

``identify`` creates a probe from a header; ``verdicts`` decides from it whether the file is usable, and the engine uses
it for loading. Tensor names of a UNet are those of the original training code (``input_blocks``) or of diffusers
(``down_blocks``).
"""

import re
from dataclasses import dataclass, field, replace

from diffusion_local import families
from diffusion_local.families import sdxl
from diffusion_local.models import parts
from diffusion_local.models.headers import GGUF
from diffusion_local.models.loras import LoraFile
from diffusion_local.models.weights import TensorView

ORIGINAL, DIFFUSERS = "original", "diffusers"
#: Widths of the text embeddings for cross attention; ``KOLORS_ADDED``: input width of the added time embedding.
SD1, SD2, XL, REFINER = 768, 1024, 2048, 1280
KOLORS_ADDED = 5632
#: Input channels of a UNet that also reads a picture (InstructPix2Pix).
PIX2PIX_CHANNELS = 8
ATTENTION_BLOCK = re.compile(r"input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.norm1\.weight")
DEPTH_DIFFUSERS = re.compile(r"down_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.norm1\.weight")
CROSS = re.compile(r"(?:attn2|crossattn)\.to_k\.weight$")
#: A tensor, under diffusers' name, of a distilled UNet that reads the guidance as an input.
GUIDED = "time_embedding.cond_proj.weight"
#: Substrings of layer names that only UNets for video have.
TEMPORAL = ("time_stack", "temporal_transformer_blocks", "temp_convs", "temp_attentions", "temopral_conv")


@dataclass(frozen=True, slots=True)
class Unet:
    """Shape of a UNet.

    ``channels``: input channels; ``width``: width of the text embeddings; ``added``: input width of the added time
    embedding (0: none); ``depths``: transformer blocks of each attention in the down blocks; ``guided``: width of the
    embedding of the guidance that a distilled UNet (LCM) reads (0: none).
    """

    naming: str
    channels: int
    first: int
    width: int
    added: int
    depths: tuple[int, ...]
    temporal: bool
    guided: int = 0

    @property
    def architecture(self) -> str:
        """The architecture by text width and shape; empty if unknown."""
        if self.width == XL:
            if self.added == KOLORS_ADDED:
                return "kolors"
            if self.channels == PIX2PIX_CHANNELS:
                return "sdxl_instruct"
            return sdxl.DEPTHS.get(self.depths, "sdxl")
        if (self.width, self.channels) == (SD1, PIX2PIX_CHANNELS):
            return "sd1_instruct"
        refiner = "sdxl_refiner" if self.added else ""
        return {SD1: "sd1", SD2: "sd2", REFINER: refiner}.get(self.width, "")


def read_unet(view: TensorView) -> Unet | None:
    """The shape of the UNet; None if the tensors do not belong to one."""
    original = view.shape("input_blocks.0.0.weight")
    if original is not None and len(original) == 4:
        return read_shape(view, ORIGINAL, original, "label_emb.0.0.weight")
    input_shape = view.shape("conv_in.weight")
    if input_shape is not None and len(input_shape) == 4 and view.has("down_blocks.0.resnets.0.conv1", "up_blocks.0"):
        return read_shape(view, DIFFUSERS, input_shape, "add_embedding.linear_1.weight")
    return None


def read_shape(view: TensorView, naming: str, entrance: tuple[int, ...], added: str) -> Unet:
    label = view.shape(added)
    depths: dict[tuple[int, ...], int] = {}
    width, temporal = 0, False
    pattern = ATTENTION_BLOCK if naming == ORIGINAL else DEPTH_DIFFUSERS
    for name in view.tensors:
        if found := pattern.match(name):
            *place, block = (int(each) for each in found.groups())
            depths[tuple(place)] = max(depths.get(tuple(place), 0), block + 1)
        elif CROSS.search(name):
            shape = view.shape(name)
            width = width or (shape[-1] if shape else 0)
        temporal = temporal or any(word in name for word in TEMPORAL)
    return Unet(
        naming,
        channels=entrance[1],
        first=entrance[0],
        width=width,
        added=label[-1] if label and len(label) == 2 else 0,
        depths=tuple(depths[place] for place in sorted(depths)),
        temporal=temporal,
        guided=(view.shape(GUIDED) or (0, 0))[1],
    )


#: Kinds of files in addition to those of ``parts``.
CHECKPOINT, DENOISER, LORA, EMBEDDING, UPSCALER, CONTROL, IP_ADAPTER, ATTACHMENT, STRANGER, UNKNOWN = (
    "checkpoint", "denoiser", "lora", "embedding", "upscaler", "control", "ip_adapter", "attachment", "stranger",
    "unknown",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldPart:
    """A part contained in a file: its id in ``parts``, or ``denoiser``; the prefix of its tensor names; their precision
    and quantisation; and its size in weights and in bytes.
    """

    id: str
    prefix: str
    precision: str
    quantisation: str = ""
    count: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """The facts about a weight file.

    ``architecture``: one of ``families``; ``naming``: the code whose tensor names the denoiser uses; ``held`` and
    ``missing``: parts of a model that the file has and lacks; ``precision`` and ``quantisation``: those of the main
    part; ``id``: id of a part or attachment, or title of an unsupported model; ``base``: what an attachment fits.

    ``widths``: input width of an IP-Adapter, or (projected, hidden) output widths of an image encoder. ``modes``: kinds
    of control pictures that a union ControlNet reads; ``reads_mask``: a ControlNet also reads a mask. ``lacking``:
    tensors of the denoiser's architecture that the file lacks; ``unknown``: tensors of the file that its architecture
    does not have; both with ``#`` for each number. ``sizes``: entries of the denoiser's configuration that follow from
    its tensors.

    ``latents``: means and standard deviations of the latents' channels that the file states.

    ``twin``: the same file as one of another kind, such as the text encoder of a whole CLIP model.

    ``prediction``: "epsilon" or "v_prediction", "" for the family's own; ``prediction_guessed``: no mark in the
    file states it; ``zero_snr``: the noise schedule ends at zero signal; ``old_names``: the text encoder has the tensor
    names of older programs.
    """

    kind: str
    container: str = "safetensors"
    architecture: str = ""
    id: str = ""
    title: str = ""
    base: str = ""
    naming: str = ""
    precision: str = ""
    quantisation: str = ""
    held: tuple[HeldPart, ...] = ()
    missing: tuple[str, ...] = ()
    unet: Unet | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    prediction: str = ""
    prediction_guessed: bool = False
    zero_snr: bool = False
    old_names: bool = False
    lora: LoraFile | None = field(default=None, compare=False)
    calls: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    modes: int = 0
    reads_mask: bool = False
    lacking: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    latents: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    twin: "Probe | None" = None

    def as_kind(self, kind: str) -> "Probe":
        """The probe of the file as one of this kind, if it can be used as either."""
        if self.twin is None or self.twin.kind != kind:
            return self
        return replace(self.twin, container=self.container, calls=self.calls)

    @property
    def draws_previews(self) -> bool:
        """Whether the file has the decoder of a small VAE that is used for previews."""
        plain = self.container != GGUF and not self.calls
        return self.id == parts.TINY and self.base not in ("", "vae_flux2") and plain

    @property
    def family(self) -> str:
        return families.of_architecture(self.architecture).id if self.architecture else ""

    @property
    def denoiser(self) -> HeldPart | None:
        return next((each for each in self.held if each.id == DENOISER), None)


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a file: its probe, metadata, size in bytes, and size of its weights in fp16."""

    probe: Probe
    metadata: dict[str, str]
    size_bytes: int
    memory_bytes: int
