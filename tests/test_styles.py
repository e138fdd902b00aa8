"""Style presets from the bundled file and a person's own."""

from pathlib import Path

import pytest

from diffusion_local.errors import InvalidParams
from diffusion_local.paths import assets
from diffusion_local.styles import PROMPT_PLACEHOLDER, Styles, apply_template, read_styles


def test_the_bundled_ones_have_a_place_for_the_prompt() -> None:
    bundled = read_styles(assets() / "styles.csv")
    assert len(bundled) >= 10
    assert all(PROMPT_PLACEHOLDER in style.prompt and style.negative for style in bundled)


def test_a_persons_file_adds_and_replaces_and_is_read_afresh(tmp_path: Path) -> None:
    styles = Styles(tmp_path)
    before = [style.name for style in styles.all()]
    (tmp_path / "styles.csv").write_text(
        '\ufeffname,prompt,negative_prompt\nMine,"{prompt}, mine, with comma",bad\nPhoto,my {prompt},\n'
        ",no name,\nEmpty,,\nShort\n",
        encoding="utf-8",
    )
    after = styles.all()
    assert [style.name for style in after] == ["Mine", "Photo", *(name for name in before if name != "Photo")]
    assert styles.apply(["Mine"], "a cat", "") == ("a cat, mine, with comma", "bad")
    assert styles.apply(["Photo", "Mine"], "a cat", "x") == ("my a cat, mine, with comma", "x, bad")


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_as_excel_saves_it(tmp_path: Path, codec: str, delimiter: str) -> None:
    rows = ("name", "prompt", "negative_prompt"), ("Mine", '"{prompt}, 水墨"', '"a; b"')
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (tmp_path / "styles.csv").write_bytes(text.encode(codec))
    [style] = read_styles(tmp_path / "styles.csv")
    assert (style.name, style.prompt, style.negative) == ("Mine", "{prompt}, 水墨", "a; b")


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "styles.csv").write_bytes(b"name,prompt\n\xff\xfe\x00")
    assert len(Styles(tmp_path).all()) >= 10


@pytest.mark.parametrize(
    ("template", "text", "whole"),
    [
        ("ink of {prompt}.", "a cat", "ink of a cat."),
        ("ink", "a cat", "a cat, ink"),
        ("ink", "", "ink"),
        ("", "x", "x"),
    ],
)
def test_a_template_goes_around_the_prompt(template: str, text: str, whole: str) -> None:
    assert apply_template(template, text) == whole


def test_an_unknown_style_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"styles: must be among Photo.*nope"):
        Styles(tmp_path).apply(["nope"], "a cat", "")


def test_only_so_many_styles_go_around_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "styles.csv").write_text(
        f"name,prompt,negative_prompt\ntwice,{PROMPT_PLACEHOLDER} {PROMPT_PLACEHOLDER},\n", encoding="utf-8"
    )
    styles = Styles(tmp_path)
    with pytest.raises(InvalidParams, match=r"^styles: must be at most 20 \(got 21\)"):
        styles.apply(["twice"] * 21, "a", "")
    with pytest.raises(InvalidParams, match=r"^prompt: must have at most 10,000 characters"):
        styles.apply(["twice"] * 20, "a boat", "")
