"""Contact sheets: many small labelled pictures in one, as a plain sheet or a grid with row and column headings.

Only one picture at a time is in memory beside the sheet, which has at most MAX_PIXELS.
"""

import contextlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from PIL import Image as PIL
from PIL import ImageDraw, ImageFont

from diffusion_local import image_decoding
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message

MAX_CELLS = 2000
MAX_PIXELS = 36_000_000  # per sheet: about 110 MB while it is drawn
MAX_SIDE = 16_000  # pixels per side; WebP's limit is 16,383
LARGEST, SMALLEST = 256, 24  # pixels of a cell's longer side
GAP, MARGIN = 8, 16
TEXT, HEAD, TITLE = 12, 14, 20  # letter heights
LABEL_LINES, HEAD_LINES, NOTE_LINES = 2, 3, 5
HEAD_WIDTH = 140  # column of row headings
#: Fonts tried for text beyond ASCII, if the system has them.
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "segoeui.ttf", "msyh.ttc", "PingFang.ttc")

#: Opens a picture's file.
Opener = Callable[[], BinaryIO]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: a function that opens the picture (or a thumbnail), or None and a ``note`` with the reason.

    ``label`` is drawn below it.
    """

    open: Opener | None
    label: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Colors:
    ground: str
    empty: str
    text: str
    faint: str


LIGHT_COLOURS = Colors("#ffffff", "#f1f1f3", "#18181b", "#71717a")
DARK = Colors("#18181b", "#27272a", "#fafafa", "#a1a1aa")


def contact_sheet(
    cells: Sequence[Cell],
    columns: int = 0,
    *,
    column_heads: Sequence[str] = (),
    row_heads: Sequence[str] = (),
    title: str = "",
    colors: Colors = LIGHT_COLOURS,
) -> PIL.Image:
    """Draw the cells in rows of ``columns`` (0: roughly square), as an RGB picture.

    With ``column_heads`` or ``row_heads`` it is a grid, filled row by row. An unreadable file becomes an empty cell
    with a note. Raises InvalidParams if there is nothing to draw, the headings do not fit the cells, or the sheet
    exceeds its limits.
    """
    if not 0 < len(cells) <= MAX_CELLS:
        raise InvalidParams("cells", message("sheet_cells", most=MAX_CELLS, got=len(cells)))
    across = len(column_heads) or columns or math.ceil(math.sqrt(len(cells)))
    down = len(row_heads) or math.ceil(len(cells) / across)
    if across * down < len(cells) or (row_heads and across * down != len(cells)):
        raise InvalidParams("cells", message("sheet_fill", count=len(cells), across=across, down=down))
    plan = SheetLayout.of(cells, across, down, column_heads, row_heads, title)
    sheet = PIL.new("RGB", plan.size, colors.ground)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw_text(draw, title, (MARGIN, MARGIN), plan.size[0] - 2 * MARGIN, TITLE, 1, colors.text)
    for place, head in enumerate(column_heads):
        x, _ = plan.corner(place)
        draw_text(draw, head, (x, plan.top - plan.head_height), plan.box[0], HEAD, HEAD_LINES, colors.text)
    for place, head in enumerate(row_heads):
        _, y = plan.corner(place * across)
        draw_text(draw, head, (MARGIN, y), HEAD_WIDTH, HEAD, max(1, plan.box[1] // line_height(HEAD)), colors.text)
    for place, cell in enumerate(cells):
        x, y = plan.corner(place)
        small = open_thumbnail(cell.open, plan.box)
        if small is None:
            draw.rectangle((x, y, x + plan.box[0] - 1, y + plan.box[1] - 1), fill=colors.empty)
            why = cell.note or ("" if cell.open is None else "cannot be read")
            draw_text(draw, why, (x + 4, y + 4), plan.box[0] - 8, TEXT, NOTE_LINES, colors.faint)
        else:
            sheet.paste(small, (x + (plan.box[0] - small.width) // 2, y + (plan.box[1] - small.height) // 2))
        draw_text(draw, cell.label, (x, y + plan.box[1] + 2), plan.box[0], TEXT, LABEL_LINES, colors.text)
    return sheet


@dataclass(frozen=True, slots=True)
class SheetLayout:
    """Geometry in pixels: sheet size, cell box, corner of the first cell, and row height."""

    across: int
    box: tuple[int, int]
    left: int
    top: int
    head_height: int
    row_height: int
    size: tuple[int, int]

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        across: int,
        down: int,
        column_heads: Sequence[str],
        row_heads: Sequence[str],
        title: str,
    ) -> "SheetLayout":
        wide, high = common_shape(cells)
        left = MARGIN + (HEAD_WIDTH + GAP if row_heads else 0)
        label = LABEL_LINES * line_height(TEXT) + 2 if any(cell.label for cell in cells) else 0
        side = LARGEST
        while True:
            box = (max(1, round(side * wide)), max(1, round(side * high)))
            lines = max((len(wrap_text(head, box[0], HEAD, HEAD_LINES)) for head in column_heads), default=0)
            heads = lines * line_height(HEAD) + GAP if column_heads else 0
            top = MARGIN + (line_height(TITLE) + GAP if title else 0) + heads
            row = box[1] + label + GAP
            size = (left + across * (box[0] + GAP) - GAP + MARGIN, top + down * row - GAP + MARGIN)
            if size[0] * size[1] <= MAX_PIXELS and max(size) <= MAX_SIDE:
                return cls(across, box, left, top, heads, row, size)
            if side <= SMALLEST:
                raise InvalidParams("columns", message("sheet_many", across=across, down=down))
            side = max(SMALLEST, side - 8)

    def corner(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.across)
        return self.left + column * (self.box[0] + GAP), self.top + row * self.row_height


def common_shape(cells: Sequence[Cell]) -> tuple[float, float]:
    """(width, height) of a box that all pictures fit into, with a longer side of 1; reads file headers only."""
    wide = high = 0.0
    for cell in cells:
        with contextlib.suppress(OSError, PIL.DecompressionBombError):
            if cell.open is not None:
                with cell.open() as file, PIL.open(file) as picture:
                    longer = max(picture.size)
                    wide, high = max(wide, picture.width / longer), max(high, picture.height / longer)
    return (wide, high) if wide and high else (1.0, 1.0)


def open_thumbnail(open_picture: Opener | None, box: tuple[int, int]) -> PIL.Image | None:
    """The picture scaled down to the box; None if there is none or it is unreadable."""
    if open_picture is None:
        return None
    try:
        with open_picture() as file, PIL.open(file) as picture, image_decoding.share(picture):
            picture.draft("RGB", box)
            small = picture.convert("RGB")
            small.thumbnail(box, PIL.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, PIL.DecompressionBombError):
        return None
    return small


def draw_text(
    draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int], width: int, height: int, lines: int, fill: str
) -> None:
    font = font_for(text, height)
    for place, line in enumerate(wrap_text(text, width, height, lines)):
        draw.text((at[0], at[1] + place * line_height(height)), line, fill=fill, font=font)


def wrap_text(text: str, width: int, height: int, most: int) -> list[str]:
    """Wrap text into at most ``most`` lines of ``width`` pixels; an ellipsis marks omitted text."""
    measure = font_for(text, height).getlength
    lines: list[str] = []
    left = list(break_units(text))
    while left and len(lines) < most:
        line = ""
        while left and measure((line + left[0]).strip()) <= width:
            line += left.pop(0)
        if not line.strip() and left:  # a single word wider than the line
            word = left.pop(0)
            lengths = range(1, len(word) + 1)
            fits = max(1, bisect_left(lengths, True, key=lambda length: measure(word[:length]) > width))
            line = word[:fits]
            if word[fits:]:
                left.insert(0, word[fits:])
        lines.append(line.strip())
    if left and lines:
        last = lines[-1]
        while last and measure(last + "…") > width:
            last = last[:-1]
        lines[-1] = last + "…"
    return lines


def break_units(text: str, most: int = 400) -> Iterator[str]:
    """Units between which a line may break: words with trailing space, and single characters of unspaced scripts."""
    piece = ""
    for sign in " ".join(text[:most].split()):
        piece += sign
        if sign in " -/,_" or ord(sign) > 0x2E80:
            yield piece
            piece = ""
    if piece:
        yield piece


def line_height(height: int) -> int:
    return height + height // 3


def font_for(text: str, height: int) -> Font:
    """The first font that has all characters of the text, otherwise the one that lacks the fewest."""
    signs = "".join(sorted(set(text) - {" ", "…"}))
    return min((found for found in fonts(height)), key=lambda found: sum(not has_glyph(found, sign) for sign in signs))


@lru_cache
def fonts(height: int) -> list[Font]:
    """Pillow's built-in font (ASCII), then those of FONTS that the system has."""
    loaded: list[Font] = [ImageFont.load_default(height)]
    for name in FONTS:
        with contextlib.suppress(OSError):
            loaded.append(ImageFont.truetype(name, height))
    return loaded


@lru_cache(10_000)
def has_glyph(font: Font, sign: str) -> bool:
    """Whether a font has a glyph: missing ones are drawn like a non-existent character."""
    return sign.isascii() or bytes(font.getmask(sign)) != bytes(font.getmask("\uffff"))
