"""The second pass of a picture at a larger size: its size, its steps, and the tiles that it may be made in."""

from collections.abc import Iterator
from dataclasses import dataclass

#: Sides are multiples of the largest power of two, up to this one, that divides those of the first pass: no model
#: wants a larger multiple.
GRID = 32
#: The smallest side of a tile, in pixels, and the most tiles of a picture.
MIN_TILE, MAX_TILES = 128, 1024
#: Share of a tile that overlaps the next one.
OVERLAP = 4
#: Schedules are not longer than a model was trained on.
MAX_SCHEDULE = 1000

Size = tuple[int, int]
#: left, top, right, bottom
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class SecondPass:
    """``size`` in pixels; ``steps`` are made of the whole picture, or of each tile of side ``tile`` (0: none)."""

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
        """In step-megapixels."""
        return self.total_steps * self.loop_size[0] * self.loop_size[1] / 1e6


def enlarged(size: Size, scale: float) -> Size:
    """The size of a second pass. Every side is a multiple of what the model wants, as those of ``size`` are."""
    grid = min(GRID, *(side & -side for side in size))
    width, height = (max(grid, round(side * scale / grid) * grid) for side in size)
    return width, height


def schedule(steps: int, strength: float) -> tuple[int, int]:
    """(length of the schedule, steps left out at its beginning), so that ``steps`` are made, as A1111 counts them."""
    length = max(steps, min(MAX_SCHEDULE, int(steps / max(strength, 1 / MAX_SCHEDULE))))
    return length, length - steps


def tiles(size: Size, side: int) -> Iterator[Box]:
    """Boxes of equal size that cover a picture, row by row; neighbours overlap by about a quarter of a tile."""
    columns, rows = (list(starts(length, side)) for length in size)
    for top in rows:
        for left in columns:
            yield left, top, min(left + side, size[0]), min(top + side, size[1])


def starts(length: int, side: int) -> Iterator[int]:
    """Where tiles begin along a side of a picture."""
    count = tile_count(length, side)
    grid = min(GRID, length & -length, side & -side)
    for number in range(count):
        yield number * (length - side) // max(1, count - 1) // grid * grid if count > 1 else 0


def tile_count(length: int, side: int) -> int:
    """Tiles along a side of a picture; 1 for one that is not tiled (``side`` 0)."""
    return 1 if not side or length <= side else -(-(length - side) // (side - side // OVERLAP)) + 1
