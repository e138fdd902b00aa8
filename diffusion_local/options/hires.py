"""The second pass of a picture at a larger size: its size, steps and tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

#: The upscaler that needs no file: Pillow's filter.
LANCZOS = "Lanczos"
#: Methods that need no file to enlarge a picture before its second pass: its latents, or its pixels.
HIRES_UPSCALERS = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest-exact)",
    LANCZOS,
)
#: Sides are multiples of the largest power of two, up to this one, that divides the sides of the first pass. No model
#: needs a larger multiple.
GRID = 32
#: Minimum side of a tile in pixels, and maximum number of tiles per picture.
MIN_TILE, MAX_TILES = 128, 1024
#: A tile overlaps the next one by 1 / OVERLAP of its side.
OVERLAP = 4
#: Maximum length of a schedule: the number of timesteps in training.
MAX_SCHEDULE = 1000

Size = tuple[int, int]
#: left, top, right, bottom
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SecondPass:
    """A second pass. ``size`` in pixels; ``steps`` per tile of side ``tile``, or for the whole picture if that is 0."""

    size: Size
    steps: int
    tile: int

    @property
    def boxes(self) -> list[Box]:
        """The regions denoised one after another."""
        return list(tiles(self.size, self.tile)) if self.tile else [(0, 0, *self.size)]

    @property
    def count(self) -> int:
        """Number of ``boxes``."""
        return tile_count(self.size[0], self.tile) * tile_count(self.size[1], self.tile)

    @property
    def total_steps(self) -> int:
        return self.steps * self.count

    @property
    def loop_size(self) -> Size:
        """Size of one denoised region: the picture, or a tile."""
        width, height = (min(side, self.tile) if self.tile else side for side in self.size)
        return width, height

    @property
    def cost(self) -> float:
        """Work in step-megapixels."""
        return self.total_steps * self.loop_size[0] * self.loop_size[1] / 1e6


def enlarged(size: Size, scale: float) -> Size:
    """The size of a second pass. Like the sides of ``size``, its sides are multiples of what the model requires."""
    grid = min(GRID, *(side & -side for side in size))
    width, height = (max(grid, round(side * scale / grid) * grid) for side in size)
    return width, height


def schedule(steps: int, strength: float) -> tuple[int, int]:
    """(length of the schedule, steps skipped at its beginning) for ``steps`` denoising steps, as A1111 counts them."""
    length = max(steps, min(MAX_SCHEDULE, int(steps / max(strength, 1 / MAX_SCHEDULE))))
    return length, length - steps


def tiles(size: Size, side: int) -> Iterator[Box]:
    """Equal boxes that cover a picture, row by row; neighbours overlap by about a quarter of a tile."""
    columns, rows = (list(starts(length, side)) for length in size)
    for top in rows:
        for left in columns:
            yield left, top, min(left + side, size[0]), min(top + side, size[1])


def starts(length: int, side: int) -> Iterator[int]:
    """Start positions of the tiles along a side of a picture."""
    count = tile_count(length, side)
    grid = min(GRID, length & -length, side & -side)
    for number in range(count):
        yield number * (length - side) // max(1, count - 1) // grid * grid if count > 1 else 0


def tile_count(length: int, side: int) -> int:
    """Number of tiles along a side of a picture; 1 if it is not tiled (``side`` 0)."""
    return 1 if not side or length <= side else -(-(length - side) // (side - side // OVERLAP)) + 1
