"""Control pictures made without weights: each kind against a plain computation or a property of its definition."""

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diffusion_local.engine import preprocessors


def drawn(size: int = 96) -> np.ndarray:
    """A grey disc and a dark bar on white, with a little noise."""
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((16, 16, 64, 64), fill=(120, 60, 200))
    pen.rectangle((70, 10, 80, 90), fill=(20, 30, 40))
    noise = np.random.default_rng(0).integers(-3, 4, (size, size, 3))
    return np.clip(np.asarray(image).astype(int) + noise, 0, 255).astype(np.uint8)


def canny_in_loops(pixels: np.ndarray, low: int, high: int) -> np.ndarray:
    """The same definition, pixel by pixel and with recursion unrolled: slow, and nothing shared with the code."""
    height, width, _ = pixels.shape
    value = pixels.astype(int)

    def at(y: int, x: int, c: int) -> int:
        return int(value[min(max(y, 0), height - 1), min(max(x, 0), width - 1), c])

    weights = ((-1, 1), (0, 2), (1, 1))
    gradient: dict[tuple[int, int], tuple[int, int]] = {}
    for y in range(height):
        for x in range(width):
            each = [
                (
                    sum(k * (at(y + d, x + 1, c) - at(y + d, x - 1, c)) for d, k in weights),
                    sum(k * (at(y + 1, x + d, c) - at(y - 1, x + d, c)) for d, k in weights),
                )
                for c in range(3)
            ]
            gradient[y, x] = max(each, key=lambda pair: abs(pair[0]) + abs(pair[1]))
    strength = {place: abs(dx) + abs(dy) for place, (dx, dy) in gradient.items()}
    kept = {}
    for (y, x), (dx, dy) in gradient.items():
        here = strength[y, x]
        angle = math.degrees(math.atan2(abs(dy), abs(dx))) if dx or dy else 90.0
        if angle < 22.5:
            ok = here > strength.get((y, x - 1), 0) and here >= strength.get((y, x + 1), 0)
        elif angle > 67.5:
            ok = here > strength.get((y - 1, x), 0) and here >= strength.get((y + 1, x), 0)
        else:
            s = -1 if (dx < 0) != (dy < 0) else 1
            ok = here > strength.get((y - 1, x - s), 0) and here > strength.get((y + 1, x + s), 0)
        if ok and here > low:
            kept[y, x] = here
    edges = np.zeros((height, width), bool)
    todo = [place for place, here in kept.items() if here > high]
    while todo:
        y, x = todo.pop()
        if (y, x) in kept and not edges[y, x]:
            edges[y, x] = True
            todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return edges


def test_canny_is_the_plain_definition() -> None:
    pixels = drawn(48)
    found = preprocessors.canny(pixels, 60, 160)[..., 0] > 0
    assert np.array_equal(found, canny_in_loops(pixels, 60, 160))
    noise = np.random.default_rng(1).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    assert np.array_equal(preprocessors.canny(noise, 300, 700)[..., 0] > 0, canny_in_loops(noise, 300, 700))


def test_canny_of_a_step_is_one_pixel_wide() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 15:] = 200
    edges = preprocessors.canny(pixels)[..., 0] > 0
    assert edges.sum(axis=1).tolist() == [1] * 20
    assert set(np.flatnonzero(edges.any(axis=0))) <= {14, 15}


def test_a_weak_edge_counts_only_where_it_goes_on_from_a_strong_one() -> None:
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[:30, 20:] = 100  # strong
    pixels[30:, 20:] = 35  # weak, and its continuation
    assert preprocessors.canny(pixels, 100, 300)[50, 19:21].any()
    pixels[:30] = 0
    assert not preprocessors.canny(pixels, 100, 300).any()


@pytest.mark.parametrize("name", sorted(preprocessors.PREPROCESSORS))
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (64, 48)])
def test_every_preprocessor_keeps_the_size_and_takes_any_mode(name: str, size: tuple[int, int]) -> None:
    for mode in ("L", "RGB", "RGBA"):
        made = preprocessors.preprocess(Image.new(mode, size, 90), name)
        assert (made.size, made.mode) == (size, "RGB")


def test_a_plain_picture_has_no_edges() -> None:
    plain = Image.new("RGB", (32, 32), (9, 200, 77))
    for name in ("canny", "softedge", "scribble"):
        assert preprocessors.preprocess(plain, name).getbbox() is None, name


def test_soft_edges_are_brightest_at_the_outline_and_scribbles_lie_on_dark_parts() -> None:
    pixels = drawn()
    soft = preprocessors.soft_edge(pixels)[..., 0].astype(float)
    assert soft[40, 14:19].max() > 100 > 60 > soft[2:8, 2:8].max()
    strokes = preprocessors.scribble(pixels)[..., 0]
    assert strokes[50, 72:79].min() == 255
    assert strokes[2:8, 2:8].max() == 0


def test_tile_luminance_and_invert() -> None:
    pixels = drawn(96)
    assert np.array_equal(preprocessors.invert(preprocessors.invert(pixels)), pixels)
    grey = preprocessors.luminance(pixels)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    tiled = preprocessors.tile(pixels).astype(float)
    assert abs(tiled.mean() - pixels.mean()) < 2
    assert np.abs(np.diff(tiled, axis=1)).mean() < np.abs(np.diff(pixels.astype(float), axis=1)).mean()
