"""The memory policy: chooses the rung on which a model is held.

A model's need is estimated from its files and corrected by measurements. Torch-free; sizes in bytes. The constants
were fitted to tensor memory peaks on one H100, per rung, for SD 1.5 at 512x512 and SDXL at 1024x1024 in fp16, and
SD 3.5 medium at 1024x1024 in bf16 (scripts/results/gpu-engine.json); the estimates exceed each peak by 5 to 25 %.
Memory beyond the weights grows with the number of pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diffusion_local.domain import Fit
from diffusion_local.engine.kept_blocks import kept_for, slots_size
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.options.types import RUNGS

#: Rungs by type of device, fastest first. CPUs and Apple GPUs have a single memory, so nothing can be offloaded.
LADDERS: dict[str, tuple[str, ...]] = {
    "cuda": tuple(each for each in RUNGS if each != "attention_slicing"),
    "mps": ("resident", "vae_tiling", "attention_slicing"),
    "cpu": ("resident", "vae_tiling", "attention_slicing"),
}

#: The rung on which the denoiser's blocks stay on the device as far as they fit, and the others are streamed.
STREAMING = "block_streaming"

GIB = 1024**3
#: Values in memory per pixel of the picture at the peak of a step or of decoding.
STEP_NUMBERS = 300
DECODE_NUMBERS = 1290  # for a VAE with 128 channels at full size, as in SD, SDXL, SD3 and FLUX
#: Side in pixels of decoding tiles on rungs below ``resident``, and on ``sequential``.
TILE, SMALL_TILE = 512, 256
#: A CUDA graph's memory relative to a step's peak: its fixed layout has gaps. Measured: 1.0 to 1.37.
GRAPH_SHARE = 1.4
#: When layers are streamed, 1/LAYERS_SHARE of a part is on the device: the current layer and the next.
LAYERS_SHARE = 32
#: Overhead: fragmentation of the allocator (a factor), and library workspaces (bytes).
MARGIN, WORKSPACE = 1.05, 160 * 1024**2
#: Names of the denoiser in pipelines.
DENOISERS = ("unet", "transformer")
#: A failed rung is retried once the free memory exceeds that of the failure by this factor.
RETRY_WITH = 1.15


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory in bytes that a model needs at one picture size.

    ``parts``: weights of each part as they are held; ``step`` and ``decode``: activations of one denoising step and of
    decoding the picture; ``tiled`` and ``small_tiled``: of decoding it in tiles; ``beside``: weights of ControlNets,
    IP-Adapters and LoRAs, which are on the device whenever the denoiser runs; ``vision``: weights of the image encoder,
    which is on the device only before the first step; ``blocks``: weights of each block of the denoiser; ``read``: need
    of the largest text encoder if its blocks are streamed.
    """

    parts: Mapping[str, int]
    step: int
    decode: int
    tiled: int
    small_tiled: int
    beside: int = 0
    vision: int = 0
    blocks: tuple[int, ...] = ()
    read: int = 0

    @property
    def graph(self) -> int:
        """Bytes that a CUDA graph keeps between steps: the activations of one step."""
        return int(self.step * GRAPH_SHARE)

    @property
    def weights(self) -> int:
        return sum(self.parts.values())

    @property
    def denoiser(self) -> int:
        return max((self.parts.get(part, 0) for part in DENOISERS), default=0)

    def bytes_at(self, rung: str, resident: int = 0) -> int:
        """Peak bytes on the device on a rung, including overhead.

        ``resident``: bytes of the blocks that stay on the device while the others are streamed.
        """
        vae, denoiser = self.parts.get("vae", 0), self.denoiser
        encoder = max((size for part, size in self.parts.items() if part not in (*DENOISERS, "vae")), default=0)
        layers = max(denoiser, encoder) // LAYERS_SHARE
        bare = {
            "resident": self.weights + max(self.step, self.decode, self.vision),
            "vae_tiling": self.weights + max(self.step, self.tiled, self.vision),
            "encoder_offload": denoiser + max(self.step + vae, encoder, vae + self.tiled, self.vision),
            STREAMING: denoiser - sum(self.blocks) + resident + self._beside_blocks,
            "model_offload": max(denoiser + self.step, encoder, vae + self.tiled, self.vision),
            "group_offload": vae + max(layers + self.step, self.tiled, self.vision),  # the VAE stays
            "attention_slicing": self.weights + max(self.step // 2, self.tiled, self.vision),
            "sequential": layers + max(self.step, self.small_tiled, self.vision),
        }[rung]
        return int((bare + self.beside) * MARGIN) + WORKSPACE

    def room_for_blocks(self, free: int) -> int:
        """How many of ``free`` bytes on the device may hold blocks that stay there."""
        rest = self.denoiser - sum(self.blocks) + self._beside_blocks + self.beside
        return max(0, int((free - WORKSPACE) / MARGIN) - rest)

    @property
    def _beside_blocks(self) -> int:
        """Peak bytes besides the denoiser's weights while blocks are streamed.

        Counts the VAE during steps as well: after encoding a source picture it is still on the device.
        """
        vae = self.parts.get("vae", 0)
        return max(vae + self.step + slots_size(self.blocks), vae + self.tiled, self.read, self.vision)


@dataclass(frozen=True, slots=True)
class RungChoice:
    """The rung to hold a model on, the reason in words (``why``), and its peak bytes on the device (``takes``).

    ``room``: bytes for blocks that stay on the device, on the rung that streams the others.
    """

    rung: str
    why: str = ""
    takes: int = 0
    room: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of parameters in each part of a model.

    ``vae_channels``: channels of its VAE at full size; ``kept``: bytes of the parts that are not held in the compute
    dtype; ``blocks``: per part, parameters in the matrices of its blocks; ``units``: per part, parameters of each
    block.
    """

    parts: Mapping[str, int] = field(default_factory=dict)
    vae_channels: int = 128
    upcasts_vae: bool = False
    kept: Mapping[str, int] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a picture needs in addition to its model.

    ``beside``: parameters of networks that are on the device together with the denoiser; ``vision``: parameters of the
    image encoder; ``references``: number of pictures that the denoiser reads at each step.
    """

    beside: int = 0
    vision: int = 0
    references: int = 0


NO_EXTRAS = Extras()


def estimate(
    weights: Weights, number_bytes: int, width: int, height: int, together: int = 1, extras: Extras = NO_EXTRAS
) -> MemoryNeed:
    """Memory needed by a pass of ``together`` pictures of this size. ``number_bytes``: 2 for half precision.

    Pictures are decoded one at a time. A transformer reads a reference as additional tokens, so each adds the
    activations of another picture. A UNet reads references as additional channels; its guidance then needs a third
    denoiser pass instead of two, which adds half.
    """
    vae_bytes = 4 if weights.upcasts_vae else number_bytes
    parts = {part: count * (vae_bytes if part == "vae" else number_bytes) for part, count in weights.parts.items()}
    parts |= weights.kept

    def decoding(pixels: int) -> int:
        return pixels * DECODE_NUMBERS * weights.vae_channels // 128 * vae_bytes

    units = {
        part: tuple(size * parts[part] // (weights.parts[part] or 1) for size in sizes)
        for part, sizes in weights.units.items()
        if part in parts
    }
    read = [
        size - sum(units.get(part, ())) + slots_size(units.get(part, ()))
        for part, size in parts.items()
        if part not in (*DENOISERS, "vae")
    ]
    pixels = width * height
    more = min(extras.references, 1) / 2 if "unet" in weights.parts else extras.references
    return MemoryNeed(
        parts=parts,
        step=int(pixels * (1 + more) * STEP_NUMBERS * number_bytes * together),
        decode=decoding(pixels),
        tiled=decoding(min(pixels, TILE**2)),
        small_tiled=decoding(min(pixels, SMALL_TILE**2)),
        beside=extras.beside * number_bytes,
        vision=extras.vision * number_bytes,
        blocks=next((units[part] for part in DENOISERS if part in units), ()),
        read=max(read, default=0),
    )


def choose(
    ladder: Sequence[str],
    name: str,
    need: MemoryNeed,
    free: int,
    params: Params,
    learned: Sequence[Fit],
    setting: str = "",
    together: MemoryNeed | None = None,
) -> RungChoice:
    """Choose the first rung expected to fit into ``free`` bytes, or else the last one.

    ``setting``: a rung set by the user; if this device lacks it, the last one is used. ``together``: the need of a
    pass of several pictures; it counts towards ``takes`` but never changes the rung.
    """
    if setting:
        rung = setting if setting in ladder else ladder[-1]
        if rung == STREAMING and not need.blocks:
            rung = next_rung(ladder, rung)
        return completed(RungChoice(rung, "asked for", need.bytes_at(rung)), need, together, free)
    size = "{}x{}".format(*params.peak_size)
    here = _at_this_size(learned, params)
    start, failed = 0, ""
    for fit in learned:
        if fit.failed in ladder and _applies_to(fit, params) and free < fit.free_bytes * RETRY_WITH:
            below = min(ladder.index(fit.failed) + 1, len(ladder) - 1)
            if below > start:
                start, failed = below, fit.failed
    for rung in ladder[start:]:
        if rung == STREAMING and not need.blocks:
            continue
        measured = here is not None and rung == here.worked != STREAMING and here.peak_bytes
        takes = int(here.peak_bytes * MARGIN) if here and measured else need.bytes_at(rung)
        if takes <= free:
            break
    if failed:
        why = f"{failed} ran out of memory at {size} before: {message(f'rung_{rung}')}"
    elif rung == "resident":
        why = f"{format_gib(free)} free, {name} at {size} {'took' if measured else 'needs about'} {format_gib(takes)}"
    else:
        resident = format_gib(need.bytes_at("resident"))
        why = f"{format_gib(free)} free, {name} at {size} needs about {resident}: {message(f'rung_{rung}')}"
    return completed(RungChoice(rung, why, takes), need, together, free)


def completed(choice: RungChoice, need: MemoryNeed, together: MemoryNeed | None, free: int) -> RungChoice:
    """Complete a choice for all pictures of a pass; if blocks are streamed, with the number and room of those kept."""
    if choice.rung != STREAMING:
        return choice if together is None else replace(choice, takes=max(choice.takes, together.bytes_at(choice.rung)))
    need = together or need
    room = need.room_for_blocks(free)
    resident = kept_for(need.blocks, room)
    takes = need.bytes_at(STREAMING, sum(need.blocks[place] for place in resident))
    why = f"{choice.why}, {message('blocks_stay', kept=len(resident), blocks=len(need.blocks))}"
    return replace(choice, why=why, takes=takes, room=room)


def next_rung(ladder: Sequence[str], rung: str) -> str:
    """The next rung of the ladder, or an empty string after the last."""
    place = ladder.index(rung) + 1
    return ladder[place] if place < len(ladder) else ""


def format_gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def _at_this_size(learned: Sequence[Fit], params: Params) -> Fit | None:
    measured_size = (params.kind, *params.peak_size)
    return next((fit for fit in learned if (fit.kind, fit.width, fit.height) == measured_size), None)


def _applies_to(fit: Fit, params: Params) -> bool:
    """Whether a failure applies to ``params``: a rung that failed at one size also fails at larger ones."""
    return fit.kind == params.kind and fit.width * fit.height <= math.prod(params.peak_size)
