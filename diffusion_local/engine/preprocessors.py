"""Preprocessors that need no weights: a picture becomes the control picture that a ControlNet was trained on.

Every function takes an 8-bit RGB array ``[height, width, 3]`` and returns one of the same shape. Edges and strokes are
white on black, as the published ControlNets expect them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageFilter, ImageOps

#: Thresholds of `canny` on the sum of the absolute Sobel responses (0 to 2040): A1111's and ComfyUI's defaults.
CANNY_LOW, CANNY_HIGH = 100, 200
#: tan(22.5 degrees) and tan(67.5 degrees): the borders between the four directions of an edge.
_TAN_22, _TAN_67 = 0.4142135623730951, 2.414213562373095
_NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))

Pixels: TypeAlias = "np.ndarray"


@dataclass(frozen=True)
class Preprocessor:
    """One kind of preprocessing."""

    name: str
    function: Callable[[Pixels], Pixels]


def preprocess(picture: Image.Image, name: str) -> Image.Image:
    """The control picture that preprocessor ``name`` makes of ``picture``: RGB, same size.

    Raises KeyError for a name that is not in `PREPROCESSORS`.
    """
    pixels = np.asarray(picture.convert("RGB"))
    return Image.fromarray(np.ascontiguousarray(PREPROCESSORS[name].function(pixels)))


def control_picture(picture: Image.Image, name: str, size: tuple[int, int]) -> Image.Image:
    """The control picture of a source picture for a job of this size: RGB, the source filled to the size first.

    The overhang is cut off on two sides, and transparent parts are white, as in image to image.
    """
    return preprocess(fitted(picture, size), name)


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture filled to a size, RGB."""
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    whole = picture.convert("RGB")
    return whole if whole.size == size else ImageOps.fit(whole, size, Image.Resampling.LANCZOS)


def canny(pixels: Pixels, low: int = CANNY_LOW, high: int = CANNY_HIGH) -> Pixels:
    """Edges by Canny's method as OpenCV computes it without smoothing.

    Sobel 3x3 by the channel with the strongest response, the L1 norm, suppression across the edge, then hysteresis:
    responses above ``high`` start an edge, connected ones above ``low`` continue it.
    """
    horizontal, vertical = _sobel(pixels)
    strength = np.abs(horizontal) + np.abs(vertical)
    channel = strength.argmax(axis=2)[..., None]
    dx = np.take_along_axis(horizontal, channel, 2)[..., 0]
    dy = np.take_along_axis(vertical, channel, 2)[..., 0]
    strength = np.take_along_axis(strength, channel, 2)[..., 0]
    ridge = _ridge(strength, dx, dy)
    return _as_rgb(_hysteresis(ridge & (strength > low), ridge & (strength > high)) * np.uint8(255))


def soft_edge(pixels: Pixels) -> Pixels:
    """Strength of the edges as shades of grey: Sobel on the slightly smoothed picture, brightest at 1.

    Stands in for HED and PiDiNet, which need weights. A picture without any edge gives black.
    """
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5)))
    horizontal, vertical = _sobel(smooth)
    strength = np.hypot(horizontal, vertical).max(axis=2)
    top = float(np.percentile(strength, 99.5)) or float(strength.max())
    if top <= 0:
        return np.zeros_like(pixels)
    return _as_rgb((np.sqrt(np.clip(strength / top, 0, 1)) * 255).round().astype(np.uint8))


def scribble(pixels: Pixels, threshold: int = 32) -> Pixels:
    """Strokes where the picture is darker than its surroundings: an extended difference of Gaussians.

    The same computation as A1111's ``scribble_xdog``.
    """
    picture = Image.fromarray(pixels)
    fine = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.5)), np.float32)
    coarse = np.asarray(picture.filter(ImageFilter.GaussianBlur(5)), np.float32)
    return _as_rgb((2 * (coarse - fine).min(axis=2) > threshold) * np.uint8(255))


def tile(pixels: Pixels) -> Pixels:
    """The picture at an eighth of its size and back: colours and layout without detail, for tile ControlNets."""
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    small = picture.resize((max(1, width // 8), max(1, height // 8)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def luminance(pixels: Pixels) -> Pixels:
    """Brightness (ITU-R 601) as shades of grey."""
    return _as_rgb(np.asarray(Image.fromarray(pixels).convert("L")))


def invert(pixels: Pixels) -> Pixels:
    """Black lines on white become white lines on black."""
    return 255 - pixels


def unchanged(pixels: Pixels) -> Pixels:
    """The picture is a control picture already."""
    return pixels


def _sobel(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal and vertical Sobel responses of each channel, int32; the border is repeated."""
    padded = np.pad(pixels.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = padded[:, 2:] - padded[:, :-2]
    down = padded[2:] - padded[:-2]
    return across[:-2] + 2 * across[1:-1] + across[2:], down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]


def _ridge(strength: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where a response is the largest across its edge; of two equal neighbours one is kept, as OpenCV does."""
    height, width = strength.shape
    padded = np.pad(strength, 1)

    def shifted(y: int, x: int) -> np.ndarray:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    steep = np.abs(dy)
    flat = np.abs(dx)
    west_east = steep < _TAN_22 * flat
    north_south = steep > _TAN_67 * flat
    falling = (dx < 0) == (dy < 0)  # the gradient points down right or up left
    diagonal = np.where(
        falling,
        (strength > shifted(-1, -1)) & (strength > shifted(1, 1)),
        (strength > shifted(-1, 1)) & (strength > shifted(1, -1)),
    )
    straight = np.where(
        west_east,
        (strength > shifted(0, -1)) & (strength >= shifted(0, 1)),
        (strength > shifted(-1, 0)) & (strength >= shifted(1, 0)),
    )
    return np.where(west_east | north_south, straight, diagonal)


def _hysteresis(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """The weak pixels that are connected to a strong one (8 neighbours). Work is linear in the number of pixels."""
    height, width = weak.shape
    edges = np.zeros((height + 2, width + 2), bool)
    open_pixels = np.pad(weak, 1)
    frontier = np.flatnonzero(np.pad(strong, 1))
    edges.ravel()[frontier] = True
    steps = np.array([dy * (width + 2) + dx for dy, dx in _NEIGHBOURS])
    while len(frontier):
        near = np.unique((frontier[:, None] + steps).ravel())
        frontier = near[open_pixels.ravel()[near] & ~edges.ravel()[near]]
        edges.ravel()[frontier] = True
    return edges[1:-1, 1:-1]


def _as_rgb(grey: np.ndarray) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


#: Of `line_art`: radius (pixels) of the surroundings that a line is darker than, and the least darkness that counts.
LINE_RADIUS, LINE_LEAST = 6, 8


def line_art(pixels: Pixels) -> Pixels:
    """Drawn lines, white on black: what is darker than its surroundings, as A1111's ``lineart_standard``.

    It needs no weights and suits drawings; of photographs it finds contours only.
    """
    around = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(LINE_RADIUS))).astype(np.float32)
    darker = (around - pixels).min(axis=2).clip(0, 255)
    lines = darker[darker > LINE_LEAST]
    usual = max(16.0, float(np.median(lines))) if len(lines) else 16.0
    return _as_rgb((darker / usual * 127).clip(0, 255).astype(np.uint8))


PREPROCESSORS: dict[str, Preprocessor] = {
    each.name: each
    for each in (
        Preprocessor("none", unchanged),
        Preprocessor("inpaint", unchanged),  # the mask is applied when the picture is made
        Preprocessor("canny", canny),
        Preprocessor("softedge", soft_edge),
        Preprocessor("scribble", scribble),
        Preprocessor("tile", tile),
        Preprocessor("luminance", luminance),
        Preprocessor("invert", invert),
        Preprocessor("lineart", line_art),
    )
}
