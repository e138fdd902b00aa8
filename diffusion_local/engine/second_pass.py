"""Between the two passes of a picture: what the first has made is enlarged, and a large one is made tile by tile."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from PIL import Image as PIL

from diffusion_local.engine.loops import Loop
from diffusion_local.engine.previews import LONG_SIDE
from diffusion_local.options.hires import Box, Size, tiles

#: How latents are interpolated, by the upscaler's name.
LATENT: dict[str, dict[str, Any]] = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}

#: (picture, upscaler, size) to the picture (RGB) at that size.
Enlarge = Callable[[PIL.Image, str, Size], PIL.Image]


def interpolated(latents: torch.Tensor, upscaler: str, like: torch.Tensor) -> torch.Tensor:
    """Latents, N x C x h x w, in the size of others."""
    rows, columns = like.shape[-2:]
    return torch.nn.functional.interpolate(latents.float(), size=(rows, columns), **LATENT[upscaler]).to(like)


class Mosaic:
    """Enlarged pictures (RGB) of a pass, by place, which a second pass changes tile by tile.

    The tiles of a row are blended into a strip, and whole strips into the picture, so that no tile's end shows where
    four of them meet. ``strips`` are those of the row at work, once its first tile is made.
    """

    def __init__(self, pictures: Sequence[PIL.Image], strips: Sequence[PIL.Image] = ()) -> None:
        self.pictures = [each.copy() for each in pictures]
        self.strips = list(strips)
        self._small = [shrunken(each) for each in pictures]

    @classmethod
    def of_tensors(cls, tensors: Sequence[torch.Tensor], count: int) -> Self:
        """From what ``tensors`` gave for ``count`` pictures."""
        found = [PIL.fromarray(each.numpy()) for each in tensors]
        return cls(found[:count], found[count:])

    def tensors(self) -> list[torch.Tensor]:
        """Copies of the pictures and then of the strips, H x W x 3, 8 bits a channel."""
        return [torch.from_numpy(np.array(each)) for each in (*self.pictures, *self.strips)]

    def crops(self, loop: Loop) -> list[PIL.Image]:
        """A tile of each picture, with what was made of its neighbours."""
        left, top, right, bottom = box_of(loop)
        if left == 0:
            return [each.crop((left, top, right, bottom)) for each in self.pictures]
        return [each.crop((left, 0, right, bottom - top)) for each in self.strips]

    def paste(self, loop: Loop, made: Sequence[PIL.Image]) -> None:
        """Blend a tile of each picture into it, over the width by which it overlaps the tiles made before it."""
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
        """A small picture in which a tile, of any size, lies in its place."""
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
    """A mask of a size that grows from 0 to 255 over the first ``overlap`` columns."""
    weights = np.minimum((np.arange(size[0]) + 0.5) / max(overlap, 0.5), 1.0)
    return PIL.fromarray(np.tile(np.round(weights * 255).astype(np.uint8), (size[1], 1)))
