"""Axes as people write them, counted before anything is made, and what each cell becomes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_local.errors import InvalidParams
from diffusion_local.lists.grid import Axis, Grid, parse_axis, parse_grid
from diffusion_local.options.types import Lora


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("steps: 10,20,30", "steps", ("10", "20", "30")),
        ("seed: 1-4", "seed", ("1", "2", "3", "4")),
        ("seed: 1-3, 9", "seed", ("1", "2", "3", "9")),
        ("CFG: 3-9 (+2)", "guidance", ("3", "5", "7", "9")),
        ("guidance: 1.5-3 (+0.5)", "guidance", ("1.5", "2", "2.5", "3")),
        ("prompt: cat, dog, owl", "prompt", ("cat", "dog", "owl")),
        ('S/R: "red, bright", blue', "prompt", ("red, bright", "blue")),
        ("sampler: Euler a, DPM++ 2M", "sampler", ("Euler a", "DPM++ 2M")),
        ("size: 512x512,768x512", "size", ("512x512", "768x512")),
        ("model: starter,sdxl", "model", ("starter", "sdxl")),
    ],
)
def test_an_axis_is_a_field_with_its_values(text: str, field: str, values: tuple[str, ...]) -> None:
    assert parse_axis("x", text) == Axis(field, values)


def test_a_lora_axis_names_its_lora() -> None:
    assert parse_axis("y", "lora moss: 0.4,0.8") == Axis("lora", ("0.4", "0.8"), "moss")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps", "must be"),
        ("mood: 1,2", "must be"),
        ("steps:", "must have"),
        ("steps: ten", "must have numbers for steps"),
        ("steps: 1.5", "must have numbers for steps"),
        ("steps: 10,10", "each only once"),
        ("steps: 9-3", "must be ascending"),
        ("seed: 1-5000", "at most 100 values"),
        ("seed: 0-4294967295", "at most 100 values"),
        ("prompt: cat", "text to search for"),
        ("lora: 0.4", "must name a LoRA"),
        ("steps fast: 1,2", "other fields take no name"),
        ("size: big", "WIDTHxHEIGHT"),
        ('prompt: "a', "cannot be read"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidParams, match=reason):
        parse_axis("x", text)


def test_a_grid_is_counted_before_it_is_made() -> None:
    with pytest.raises(InvalidParams, match=r"100 x 100 x 100 = 1,000,000 pictures; at most 2,000"):
        parse_grid("seed: 1-100", "steps: 1-100", "guidance: 1-100")
    with pytest.raises(InvalidParams, match="steps occurs twice"):
        parse_grid("steps: 1,2", "steps: 3,4")
    with pytest.raises(InvalidParams, match="x: must be an axis"):
        parse_grid("", "steps: 3,4")


def test_cells_come_row_by_row_and_sheet_by_sheet() -> None:
    grid = parse_grid("steps: 1,2", "prompt: cat,dog", "seed: 7,8")
    cells = list(grid.cells("a cat by a cathedral", {"negative": "x"}))
    assert [(words, each["steps"], each["seed"]) for words, each in cells[:5]] == [
        ("a cat by a cathedral", "1", "7"),
        ("a cat by a cathedral", "2", "7"),
        ("a dog by a doghedral", "1", "7"),
        ("a dog by a doghedral", "2", "7"),
        ("a cat by a cathedral", "1", "8"),
    ]
    assert grid.column_heads == ["steps 1", "steps 2"]
    assert grid.row_heads == ["seed 7 · cat", "seed 7 · dog", "seed 8 · cat", "seed 8 · dog"]
    assert len(cells) == grid.count == len(grid.column_heads) * len(grid.row_heads)
    assert Grid.from_json(grid.to_json()) == grid


def test_what_is_to_be_replaced_must_be_there() -> None:
    with pytest.raises(InvalidParams, match="prompt: must contain 'cat'"):
        list(parse_grid("prompt: cat,dog").cells("an owl", {}))
    negative = list(parse_grid("negative: blur,noise").cells("an owl", {"negative": "blur"}))
    assert [each["negative"] for _, each in negative] == ["blur", "noise"]


def test_a_lora_axis_changes_that_lora_only() -> None:
    cells = parse_grid("lora moss: 0.5,1").cells("x", {"loras": [{"name": "ink", "weight": 1.0}]})
    assert [each["loras"] for _, each in cells] == [
        [Lora("ink", 1.0), Lora("moss", 0.5)],
        [Lora("ink", 1.0), Lora("moss", 1.0)],
    ]


@pytest.mark.parametrize("given", ["ink:0.5, moss:2", ["ink:0.5", "moss"]])
def test_a_lora_axis_goes_with_loras_written_as_text(given: object) -> None:
    [(_, first), _] = parse_grid("lora moss: 0.5,1").cells("x", {"loras": given})
    assert first["loras"] == [Lora("ink", 0.5), Lora("moss", 0.5)]


AXES = st.sampled_from(
    ["steps: 1-3", "seed: 5,6", "guidance: 1-2 (+0.5)", "size: 64x64,128x64", "prompt: a,b", "sampler: Euler,DDIM", ""]
)


@given(st.lists(AXES, min_size=3, max_size=3, unique_by=lambda text: text or object()))
def test_every_grid_has_as_many_different_cells_as_it_counts(axes: list[str]) -> None:
    if not axes[0]:
        return
    grid = parse_grid(*axes)
    cells = [(words, tuple(sorted(map(str, each.items())))) for words, each in grid.cells("a", {})]
    assert len(cells) == len(set(cells)) == grid.count == len(grid.column_heads) * max(1, len(grid.row_heads))


@pytest.mark.parametrize(
    "text",
    [f"seed: {'9' * 400}", f"guidance: 1-{'9' * 400}", f"guidance: 1-2 (+{'9' * 400})", f"steps: 1-{'9' * 5000}"],
)
def test_numbers_beyond_all_bounds_are_refused(text: str) -> None:
    with pytest.raises(InvalidParams, match=r"^x: "):
        parse_grid(text)


def test_search_and_replace_is_refused_before_it_makes_a_huge_prompt() -> None:
    grid = parse_grid(f"prompt: a,{'b' * 9000}")
    with pytest.raises(InvalidParams, match=r"^prompt: must have at most 10,000 characters \(got 90,000,000\)"):
        list(grid.cells("a" * 10_000, {}))
