"""The denoising loops of a pass, and how a loop is suspended between two steps and resumed.

After the first loop come those of a second pass at a larger size, whole or tile by tile. To resume a loop, the pipeline
is called again with its latents and a scheduler that holds its state and only the remaining steps. The results equal
those of an uninterrupted run bit for bit.
"""

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image as PIL

from diffusion_local.engine import img2img
from diffusion_local.engine.img2img import hide_first_timesteps
from diffusion_local.engine.previews import LONG_SIDE
from diffusion_local.options.hires import Box, Size, schedule, tiles
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

#: Arguments of torch's ``interpolate`` by the name of the latent upscaler.
LATENT: dict[str, dict[str, Any]] = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}


@dataclass(frozen=True, slots=True)
class Loop:
    """A denoising loop. ``params``: those of the pass, with the size, steps and kind of this loop.

    ``skipped``: steps left out at the start of its schedule; ``done``: steps of the picture completed before the loop;
    ``box``: the region that a loop of a second pass makes of the enlarged picture (size ``whole``).
    """

    params: Params
    number: int
    skipped: int
    done: int
    whole: Size
    box: Box | None = None

    @property
    def steps_run(self) -> int:
        """Number of steps that the loop runs, without the skipped ones."""
        return self.params.steps - self.skipped

    @property
    def end(self) -> int:
        """Steps of the picture completed after the loop."""
        return self.done + self.steps_run

    @property
    def is_tile(self) -> bool:
        return self.box is not None and self.box != (0, 0, *self.whole)


def loops_of(params: Params) -> list[Loop]:
    """The loops that make a picture with these params, in order."""
    skipped = img2img.skipped_steps(params.steps, params.strength) if params.source else 0
    first = Loop(params, 0, skipped, skipped, (params.width, params.height))
    second = params.second
    if second is None:
        return [first]
    steps, left_out = schedule(second.steps, params.hires_strength)
    width, height = second.loop_size
    part = replace(params, kind=Kind.IMG2IMG, width=width, height=height, steps=steps)
    loops = [
        Loop(part, number, left_out, params.steps + (number - 1) * second.steps, second.size, box)
        for number, box in enumerate(second.boxes, 1)
    ]
    return [first, *loops] if params.has_first_pass else loops


#: (picture, upscaler, size) -> the picture (RGB) at that size.
Enlarge = Callable[[PIL.Image, str, Size], PIL.Image]


def interpolated(latents: torch.Tensor, upscaler: str, like: torch.Tensor) -> torch.Tensor:
    """Interpolate latents (N x C x h x w) to the size, dtype and device of ``like``."""
    rows, columns = like.shape[-2:]
    return torch.nn.functional.interpolate(latents.float(), size=(rows, columns), **LATENT[upscaler]).to(like)


class Mosaic:
    """Enlarged pictures (RGB) of a pass, by place, which a second pass repaints tile by tile.

    The tiles of a row are blended into a strip, and complete strips into the picture, so that no seam shows where four
    tiles meet. ``strips``: one per picture for the current row, once its first tile is made.
    """

    def __init__(self, pictures: Sequence[PIL.Image], strips: Sequence[PIL.Image] = ()) -> None:
        self.pictures = [each.copy() for each in pictures]
        self.strips = list(strips)
        self._small = [shrunken(each) for each in pictures]

    @classmethod
    def of_tensors(cls, tensors: Sequence[torch.Tensor], count: int) -> Self:
        """The inverse of ``tensors``, for ``count`` pictures."""
        found = [PIL.fromarray(each.numpy()) for each in tensors]
        return cls(found[:count], found[count:])

    def tensors(self) -> list[torch.Tensor]:
        """Copies of the pictures, then of the strips: H x W x 3, 8 bits per channel."""
        return [torch.from_numpy(np.array(each)) for each in (*self.pictures, *self.strips)]

    def crops(self, loop: Loop) -> list[PIL.Image]:
        """One tile of each picture, including what finished neighbours painted in its overlaps."""
        left, top, right, bottom = box_of(loop)
        if left == 0:
            return [each.crop((left, top, right, bottom)) for each in self.pictures]
        return [each.crop((left, 0, right, bottom - top)) for each in self.strips]

    def paste(self, loop: Loop, made: Sequence[PIL.Image]) -> None:
        """Blend one tile into each picture, over the width of its overlap with earlier tiles."""
        left, top, right, bottom = box_of(loop)
        width = loop.whole[0]
        boxes = list(tiles(loop.whole, loop.params.hires_tile))
        if left == 0:
            self.strips = [each.crop((0, top, width, bottom)) for each in self.pictures]
        before = max((each[2] for each in boxes if each[0] < left), default=left)
        across = ramp((right - left, bottom - top), before - left)
        for place, tile in enumerate(made):
            self._small[place] = self.preview(loop, place, tile)
            self.strips[place].paste(tile, (left, 0), across)
        if right == width:
            above = max((each[3] for each in boxes if each[1] < top), default=top)
            down = ramp((bottom - top, width), above - top).transpose(PIL.Transpose.TRANSPOSE)
            for picture, strip in zip(self.pictures, self.strips, strict=True):
                picture.paste(strip, (0, top), down)

    def preview(self, loop: Loop, place: int, tile: PIL.Image) -> PIL.Image:
        """A small copy of the whole picture with a tile (in any resolution) at its position."""
        small = self._small[place].copy()
        across, down = small.width / loop.whole[0], small.height / loop.whole[1]
        left, top, right, bottom = (
            round(edge * scale) for edge, scale in zip(box_of(loop), (across, down, across, down), strict=True)
        )
        small.paste(tile.resize((max(1, right - left), max(1, bottom - top))), (left, top))
        return small


def box_of(loop: Loop) -> Box:
    assert loop.box is not None
    return loop.box


def shrunken(picture: PIL.Image) -> PIL.Image:
    small = picture.copy()
    small.thumbnail((LONG_SIDE, LONG_SIDE))
    return small


def ramp(size: Size, overlap: int) -> PIL.Image:
    """A mask of the given size that rises from 0 to 255 over the first ``overlap`` columns."""
    weights = np.minimum((np.arange(size[0]) + 0.5) / max(overlap, 0.5), 1.0)
    return PIL.fromarray(np.tile(np.round(weights * 255).astype(np.uint8), (size[1], 1)))


log = logging.getLogger(__name__)

#: Types of attributes that are a scheduler's state; wrappers around its methods are not.
_STATE_TYPES = (bool, int, float, str, torch.Tensor, list, tuple, type(None))


@dataclass(frozen=True, slots=True)
class HeldLoop:
    """A loop suspended after ``calls`` denoiser calls and ``steps`` whole steps of the picture.

    ``latents``: in the pipeline's layout between steps; ``mosaic``: tensors of the pictures that a second pass repaints
    tile by tile; ``weights``: names the dtype and form of the weights that computed it.
    """

    calls: int
    steps: int
    latents: torch.Tensor
    scheduler: dict[str, Any]
    generators: list[torch.Tensor]
    loop: int = 0
    mosaic: list[torch.Tensor] = field(default_factory=list)
    weights: str = ""

    @classmethod
    def capture(
        cls,
        loop: int,
        mosaic: Mosaic | None,
        scheduler: Any,
        generators: Sequence[torch.Generator],
        calls: int,
        steps: int,
        latents: torch.Tensor,
        weights: str = "",
    ) -> "HeldLoop":
        """Copy the state of a running loop. ``scheduler`` and ``generators``: the loop's own."""
        state = {
            name: list(value) if isinstance(value, list) else value
            for name, value in vars(scheduler).items()
            if isinstance(value, _STATE_TYPES) and not name.startswith("__")
        }
        states = [each.get_state() for each in generators]
        return cls(calls, steps, latents.clone(), state, states, loop, mosaic.tensors() if mosaic else [], weights)

    def to_bytes(self, stamp: str) -> bytes:
        """Serialize. ``stamp`` identifies the version, device and settings that computed it."""
        file = io.BytesIO()
        torch.save({"stamp": stamp} | {each.name: getattr(self, each.name) for each in fields(self)}, file)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, stamp: str) -> "HeldLoop | None":
        """Deserialize. Returns None for damaged bytes or another stamp."""
        try:
            found = torch.load(io.BytesIO(data), weights_only=True)
            return cls(**found) if found.pop("stamp") == stamp else None
        except Exception as problem:  # a damaged file may raise anything
            log.warning("a suspended picture starts again: %s", problem)
            return None


def resume(scheduler: Any, paused: HeldLoop, skipped_calls: int, scales_start: bool) -> None:
    """Make a new scheduler continue a suspended loop. ``skipped_calls``: denoiser calls skipped at its start.

    ``scales_start``: whether the pipeline multiplies its initial latents by ``init_noise_sigma``; that is then set to
    1, because latents of a suspended loop are scaled already.
    """

    def restore() -> None:
        for name, value in paused.scheduler.items():
            setattr(scheduler, name, list(value) if isinstance(value, list) else value)

    hide_first_timesteps(scheduler, skipped_calls + paused.calls, restore)
    if scales_start:
        kind = type(scheduler)
        scheduler.__class__ = type(kind.__name__, (kind,), {"init_noise_sigma": 1.0})
