"""The record of a file of weights: its kind, family and variant, how its weights come, and which parts of a model
it holds.

``identify`` makes it from a header; ``verdicts`` tells by it whether the file can be used, and the engine acts on it.
"""

from dataclasses import dataclass, field

from diffusion_local import families
from diffusion_local.models.loras import LoraFile
from diffusion_local.models.unets import Unet

#: Kinds of files beside those of ``parts``.
CHECKPOINT, DENOISER, LORA, EMBEDDING, UPSCALER, CONTROL, IP_ADAPTER, ATTACHMENT, STRANGER, UNKNOWN = (
    "checkpoint", "denoiser", "lora", "embedding", "upscaler", "control", "ip_adapter", "attachment", "stranger",
    "unknown",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldPart:
    """A part that a file holds: its id in ``parts``, or ``denoiser``; the prefix of its tensors; how its weights come,
    how many numbers they are, and how many bytes of the file."""

    id: str
    prefix: str
    precision: str
    quantisation: str = ""
    count: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """``architecture`` is that of ``families``; ``naming`` the code whose tensor names the denoiser uses; ``held`` and
    ``missing`` are the parts of a model that the file has and lacks. ``precision`` and ``quantisation`` are those
    of the
    main part. ``id`` is that of a part, an attachment, or a stranger's title; ``base`` what an attachment fits.

    ``widths``: the width of what an IP-Adapter reads, or those of what an image encoder gives: projected, hidden.
    ``sizes`` are entries of the denoiser's configuration that its tensors tell.
    ``prediction`` is "epsilon", "v_prediction" or "edm", empty where the family's own holds; ``prediction_guessed``
    says that no mark in the file states it, ``zero_snr`` that its noise ends at a signal of zero. ``old_names`` says
    that the text encoder has names of older programs.
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

    @property
    def family(self) -> str:
        return families.of_architecture(self.architecture).id if self.architecture else ""

    @property
    def denoiser(self) -> HeldPart | None:
        return next((each for each in self.held if each.id == DENOISER), None)


@dataclass(frozen=True, slots=True)
class Contents:
    """A file that was read: its probe, metadata, size, and the size of its weights in fp16."""

    probe: Probe
    metadata: dict[str, str]
    size_bytes: int
    memory_bytes: int
