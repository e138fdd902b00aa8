"""The memory policy: chooses the rung on which a model is held. Its need is estimated from its files and corrected
by measurements.

Torch-free; sizes in bytes. The constants were fitted to peaks of torch's tensors on one H100, by rung, for SD 1.5 at
512x512 and SDXL at 1024x1024 in fp16, and SD 3.5 medium at 1024x1024 in bf16 (scripts/results/gpu-engine.json); the
estimates exceed each peak by 5 to 25 %. Memory beyond the weights grows with the number of pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from diffusion_local.domain import Fit
from diffusion_local.engine.kept_blocks import kept_for, slots_size
from diffusion_local.messages import message
from diffusion_local.options.table import Params

#: Rungs by type of device, best first. CPUs and Apple GPUs have a single memory, so nothing can be offloaded.
LADDERS: dict[str, tuple[str, ...]] = {
    "cuda": (
        "resident",
        "vae_tiling",
        "encoder_offload",
        "block_streaming",
        "model_offload",
        "group_offload",
        "sequential",
    ),
    "mps": ("resident", "vae_tiling", "attention_slicing"),
    "cpu": ("resident", "vae_tiling", "attention_slicing"),
}

#: The rung on which blocks of the denoiser stay on the device as far as they fit, and the others come and go.
STREAMING = "block_streaming"

GIB = 1024**3
#: Values held per pixel of the picture at the peak of a step or of decoding.
STEP_NUMBERS = 300
DECODE_NUMBERS = 1290  # of a VAE with 128 channels at full size, as SD, SDXL, SD3 and FLUX have
#: Side of the tiles for decoding below ``resident``, and on the last rung.
TILE, SMALL_TILE = 512, 256
#: A graph's memory relative to a step's peak: its layout is fixed and has gaps. Measured: 1.0 to 1.37.
GRAPH_SHARE = 1.4
#: Share of a part on the device when its layers are streamed: the current layer and the next.
LAYERS_SHARE = 32
#: Overhead: fragmentation in the allocator, and workspaces of libraries.
MARGIN, WORKSPACE = 1.05, 160 * 1024**2
#: Names of the denoiser among a pipeline's parts.
DENOISERS = ("unet", "transformer")
#: A rung that failed is retried once this much more memory is free than at the failure.
RETRY_WITH = 1.15


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory that a model needs at one size.

    ``parts``: weights of each part at the dtype it runs in; ``step`` and ``decode``: activations of one denoising step
    and of decoding the picture; ``tiled`` and ``small_tiled``: of decoding it in tiles; ``beside``: weights of
    ControlNets, IP-Adapters and LoRAs, which are on the device whenever the denoiser is at work; ``vision``: weights of
    the image encoder, which is there before the first step only; ``blocks``: those of the denoiser's blocks; ``read``:
    need of the largest text encoder if its blocks come and go.
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

    def bytes_at(self, rung: str, kept: int = 0) -> int:
        """Peak bytes on the device, with the allocator's overhead. ``kept``: those of blocks that stay there while the
        others come and go."""
        vae, denoiser = self.parts.get("vae", 0), self.denoiser
        encoder = max((size for part, size in self.parts.items() if part not in (*DENOISERS, "vae")), default=0)
        layers = max(denoiser, encoder) // LAYERS_SHARE
        bare = {
            "resident": self.weights + max(self.step, self.decode, self.vision),
            "vae_tiling": self.weights + max(self.step, self.tiled, self.vision),
            "encoder_offload": denoiser + max(self.step + vae, encoder, vae + self.tiled, self.vision),
            STREAMING: denoiser - sum(self.blocks) + kept + self._beside_blocks,
            "model_offload": max(denoiser + self.step, encoder, vae + self.tiled, self.vision),
            "group_offload": vae + max(layers + self.step, self.tiled, self.vision),  # the VAE stays
            "attention_slicing": self.weights + max(self.step // 2, self.tiled, self.vision),
            "sequential": layers + max(self.step, self.small_tiled, self.vision),
        }[rung]
        return int((bare + self.beside) * MARGIN) + WORKSPACE

    def room_for_blocks(self, free: int) -> int:
        """Bytes that blocks may take that stay on the device, of ``free`` there."""
        rest = self.denoiser - sum(self.blocks) + self._beside_blocks + self.beside
        return max(0, int((free - WORKSPACE) / MARGIN) - rest)

    @property
    def _beside_blocks(self) -> int:
        """Bytes beside the denoiser's weights while blocks come and go. A VAE that encoded a source is still there."""
        vae = self.parts.get("vae", 0)
        return max(vae + self.step + slots_size(self.blocks), vae + self.tiled, self.read, self.vision)


@dataclass(frozen=True, slots=True)
class RungChoice:
    """The rung to hold a model on, the reason in words, and the device's bytes it takes at its peak. ``room``: bytes
    that blocks may take that stay on the device, where the others come and go."""

    rung: str
    why: str = ""
    takes: int = 0
    room: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """Number of parameters in each part of a model; ``vae_channels``: channels of its VAE at full size.

    ``kept`` has the bytes of parts whose weights are kept otherwise than they are computed in; ``blocks`` are the
    numbers in matrices of numbered blocks, and ``units`` those of each block."""

    parts: Mapping[str, int] = field(default_factory=dict)
    vae_channels: int = 128
    upcasts_vae: bool = False
    kept: Mapping[str, int] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a picture needs beside its model. ``beside`` and ``vision`` are numbers of weights, of what is there with
    the denoiser and of the image encoder; ``references`` are pictures that the denoiser reads at each step."""

    beside: int = 0
    vision: int = 0
    references: int = 0


NO_EXTRAS = Extras()


def estimate(
    weights: Weights, number_bytes: int, width: int, height: int, together: int = 1, extras: Extras = NO_EXTRAS
) -> MemoryNeed:
    """Memory needed by a pass of ``together`` pictures of this size, with weights of ``bytes`` per number (2: half
    precision).

    They are decoded one by one. A transformer reads a reference as further tokens, so a step takes as much more; a UNet
    reads it in further channels, and the third pass of its guidance takes half as much more.
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
    wanted: str = "",
    together: MemoryNeed | None = None,
) -> RungChoice:
    """The first rung expected to fit into ``free``, or else the last one. ``together``: the need of a pass of several
    pictures, which takes more and never changes the rung.

    ``wanted``: a rung requested by the user; one that this device lacks counts as the next below it.
    """
    if wanted:
        rung = wanted if wanted in ladder else ladder[-1]
        if rung == STREAMING and not need.blocks:
            rung = next_rung(ladder, rung)
        return completed(RungChoice(rung, "asked for", need.bytes_at(rung)), need, together, free)
    size = "{}x{}".format(*params.peak_size)
    here = _at_this_size(learned, params)
    start, failed = 0, ""
    for fit in learned:
        if fit.failed in ladder and _tells_about(fit, params) and free < fit.free_bytes * RETRY_WITH:
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
    """A choice for all pictures of a pass; if blocks come and go, with those that stay, whose number is told."""
    if choice.rung != STREAMING:
        return choice if together is None else replace(choice, takes=max(choice.takes, together.bytes_at(choice.rung)))
    need = together or need
    room = need.room_for_blocks(free)
    kept = kept_for(need.blocks, room)
    takes = need.bytes_at(STREAMING, sum(need.blocks[place] for place in kept))
    why = f"{choice.why}, {message('blocks_stay', kept=len(kept), blocks=len(need.blocks))}"
    return replace(choice, why=why, takes=takes, room=room)


def next_rung(ladder: Sequence[str], rung: str) -> str:
    """The next rung, or an empty string after the last."""
    place = ladder.index(rung) + 1
    return ladder[place] if place < len(ladder) else ""


def format_gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def _at_this_size(learned: Sequence[Fit], params: Params) -> Fit | None:
    wanted = (params.kind, *params.peak_size)
    return next((fit for fit in learned if (fit.kind, fit.width, fit.height) == wanted), None)


def _tells_about(fit: Fit, params: Params) -> bool:
    """Whether a failure applies: a rung that failed at some size also fails at a larger one."""
    return fit.kind == params.kind and fit.width * fit.height <= math.prod(params.peak_size)
