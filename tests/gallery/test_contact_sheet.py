"""Contact sheets: every picture in its place, bounded in size, and whole in spite of files that are not."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image as PIL

from diffusion_local.errors import InvalidParams
from diffusion_local.gallery import contact_sheet as module
from diffusion_local.gallery.contact_sheet import (
    DARK,
    MAX_CELLS,
    MAX_PIXELS,
    MAX_SIDE,
    Cell,
    Opener,
    SheetLayout,
    contact_sheet,
    wrap_text,
)

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


def picture(folder: Path, color: tuple[int, int, int], size: tuple[int, int] = (320, 320)) -> Path:
    path = folder / f"{'-'.join(map(str, color))}-{size[0]}x{size[1]}.png"
    PIL.new("RGB", size, color).save(path)
    return path


def opener(folder: Path, color: tuple[int, int, int], size: tuple[int, int] = (320, 320)) -> Opener:
    return partial(picture(folder, color, size).open, "rb")


def middle(sheet: PIL.Image, plan: SheetLayout, place: int) -> tuple[int, ...]:
    x, y = plan.corner(place)
    found = sheet.getpixel((x + plan.box[0] // 2, y + plan.box[1] // 2))
    assert isinstance(found, tuple)
    return found


def ink(sheet: PIL.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether anything is drawn in a box of the ground's color."""
    return len(sheet.crop(box).getcolors(100_000) or []) > 1


def test_pictures_are_in_their_order_row_by_row(tmp_path: Path) -> None:
    colors = [RED, GREEN, BLUE, GREEN, RED]
    cells = [Cell(opener(tmp_path, color), f"number {place}") for place, color in enumerate(colors)]
    sheet = contact_sheet(cells, 3)
    plan = SheetLayout.of(cells, 3, 2, (), (), "")
    assert sheet.size == plan.size
    assert [middle(sheet, plan, place) for place in range(5)] == colors
    assert middle(sheet, plan, 5) == (255, 255, 255)
    x, y = plan.corner(4)
    assert ink(sheet, (x, y + plan.box[1] + 1, x + plan.box[0], y + plan.row_height))


def test_a_grid_has_heads_for_its_rows_and_columns(tmp_path: Path) -> None:
    cells = [Cell(opener(tmp_path, color)) for color in (RED, GREEN, BLUE, RED, GREEN, BLUE)]
    heads = {"column_heads": ["steps 4", "steps 8", "steps 20"], "row_heads": ["cfg 5", "cfg 7"]}
    sheet = contact_sheet(cells, **heads, title="An apple", colors=DARK)  # type: ignore[arg-type]
    plan = SheetLayout.of(cells, 3, 2, heads["column_heads"], heads["row_heads"], "An apple")
    assert [middle(sheet, plan, place) for place in (0, 1, 2, 3)] == [RED, GREEN, BLUE, RED]
    for place in range(3):
        x, _ = plan.corner(place)
        assert ink(sheet, (x, plan.top - plan.head_height, x + plan.box[0], plan.top))
    for row in range(2):
        _, y = plan.corner(3 * row)
        assert ink(sheet, (0, y, plan.left, y + 40))
    assert ink(sheet, (0, 0, sheet.width, plan.top - plan.head_height))


def test_what_cannot_be_read_is_an_empty_cell_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    half = picture(tmp_path, RED)
    half.write_bytes(half.read_bytes()[:-60])
    cells = [Cell(partial(path.open, "rb")) for path in (broken, tmp_path / "gone.png", half)]
    cells.insert(2, Cell(None, note="failed: out of memory"))
    sheet = contact_sheet(cells, 4)
    plan = SheetLayout.of(cells, 4, 1, (), (), "")
    for place in range(3):
        x, y = plan.corner(place)
        assert sheet.getpixel((x + plan.box[0] - 1, y + plan.box[1] - 1)) == (0xF1, 0xF1, 0xF3)
        assert ink(sheet, (x, y, x + plan.box[0], y + plan.box[1]))


def test_portraits_do_not_leave_room_for_landscapes(tmp_path: Path) -> None:
    portrait = contact_sheet([Cell(opener(tmp_path, RED, (160, 320)))] * 4, 4)
    square = contact_sheet([Cell(opener(tmp_path, RED))] * 4, 4)
    assert portrait.width < square.width * 0.6
    assert portrait.height == square.height


@pytest.mark.parametrize(
    ("count", "columns"), [pytest.param(MAX_CELLS, 0, marks=pytest.mark.slow), (200, 200), (200, 1), (65, 8)]
)
def test_a_sheet_is_bounded(tmp_path: Path, count: int, columns: int) -> None:
    width, height = contact_sheet([Cell(opener(tmp_path, RED), "label")] * count, columns).size
    assert width * height <= MAX_PIXELS
    assert max(width, height) <= MAX_SIDE


def test_one_picture_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    kept = module.open_thumbnail

    def watched(open_picture: Opener | None, box: tuple[int, int]) -> PIL.Image | None:
        small = kept(open_picture, box)
        assert small is not None
        sizes.append(small.size)
        return small

    monkeypatch.setattr(module, "open_thumbnail", watched)
    contact_sheet([Cell(opener(tmp_path, RED, (1024, 768)))] * 3)
    assert sizes == [(256, 192)] * 3


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (0, {}),
        (MAX_CELLS + 1, {}),
        (5, {"column_heads": ["a", "b"], "row_heads": ["c", "d"]}),
        (3, {"column_heads": ["a", "b"], "row_heads": ["c", "d"]}),
        (MAX_CELLS, {"columns": 1}),
    ],
)
def test_what_cannot_be_a_sheet_is_refused(count: int, options: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParams):
        contact_sheet([Cell(None)] * count, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["a red apple on a wooden table in the morning sun", "x" * 300, "一只红苹果放在木桌上" * 9, "", "  \n "]
)
def test_lines_fit_their_width(text: str) -> None:
    lines = wrap_text(text, 120, 12, 2)
    assert len(lines) <= 2
    measure = module.font_for(text, 12).getlength
    assert all(measure(line) <= 120 for line in lines)
    if len(text) > 60:
        assert lines[-1].endswith("…")
    else:
        assert "".join(lines).replace(" ", "") in text.replace(" ", "") or lines[-1].endswith("…")


def test_a_font_is_chosen_that_has_the_letters() -> None:
    own, *others = module.fonts(12)
    assert module.font_for("a red apple", 12) is own
    if any(module.has_glyph(found, "é") for found in others):
        assert module.has_glyph(module.font_for("un café", 12), "é")
    assert not module.has_glyph(own, "\ufffe")
