"""Weighted and long prompts: marks say what they say in A1111, and what needs none of it keeps its pixels."""

from typing import Any

import numpy as np
import pytest
from PIL import Image as PIL

from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.grammar.prompt_weights import MAX_NESTING, MAX_WEIGHT, WeightedText, parse, without_weights
from diffusion_local.models.catalog import Model
from tests.engine.conftest import Draw
from tests.support import tiers

JOB: dict[str, Any] = {"steps": 2, "guidance": 4.0}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine) -> Draw:
    return Draw(diffusers_engine)


def difference(one: PIL.Image, other: PIL.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red) apple", [("a ", 1.0), ("red", 1.1), (" apple", 1.0)]),
        ("a ((red)) apple", [("a ", 1.0), ("red", 1.21), (" apple", 1.0)]),
        ("a [red] apple", [("a ", 1.0), ("red", 1 / 1.1), (" apple", 1.0)]),
        ("a (red:1.3) apple", [("a ", 1.0), ("red", 1.3), (" apple", 1.0)]),
        ("(a (red:2):0.5)", [("a ", 0.5), ("red", 1.0)]),
        (r"\(red\)", [("(red)", 1.0)]),
        ("a (red apple", [("a ", 1.0), ("red apple", 1.1)]),
        ("12:30", [("12:30", 1.0)]),
        ("(red:1.0) apple", [("red apple", 1.0)]),
        ("(x:999)", [("x", 10.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_marks_have_the_weights_of_a1111(prompt: str, expected: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [piece.text for piece in found] == [text for text, _ in expected]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in expected])


def test_text_without_weights_is_told_apart() -> None:
    assert without_weights(r"a \(red\) apple") == "a (red) apple"
    assert without_weights("(red:1.0) apple") == "red apple"
    assert without_weights("(red) apple") is None
    assert parse("x") == [WeightedText("x")]


def test_weights_change_pixels_and_neutral_ones_do_not(draw: Draw, trained: Model) -> None:
    draw.engine.load(trained)
    usual = draw(**JOB, prompt="a red apple").image
    assert draw(**JOB, prompt="a (red:1.0) apple").image.tobytes() == usual.tobytes()
    more, less = (draw(**JOB, prompt=f"a (red:{weight}) apple").image for weight in (1.6, 0.4))
    assert difference(more, usual) > 8
    assert difference(less, usual) > 8
    assert difference(more, less) > 8


@pytest.mark.slow
def test_a_negative_prompt_can_be_weighted(draw: Draw, trained: Model) -> None:
    draw.engine.load(trained)
    usual = draw(**JOB, prompt="a red apple", negative="green").image
    assert draw(**JOB, prompt="a red apple", negative="(green:1.0)").image.tobytes() == usual.tobytes()
    assert difference(draw(**JOB, prompt="a red apple", negative="(green:1.8)").image, usual) > 4


def test_words_past_77_tokens_are_read(draw: Draw) -> None:
    start = "a red apple" + ", a red apple" * 40
    long = draw(**JOB, prompt=start).image
    assert draw.steps == [1, 2]
    assert difference(draw(**JOB, prompt=f"{start}, a blue house at night").image, long) > 2
    assert draw(**JOB, prompt=start).image.tobytes() == long.tobytes()


def test_clip_skip_is_counted_as_in_a1111(draw: Draw) -> None:
    usual, last, skipped = (draw(**JOB, prompt="a red apple", clip_skip=skip).image for skip in (0, 1, 2))
    assert last.tobytes() == usual.tobytes()
    assert difference(skipped, usual) > 2


def test_brackets_beyond_the_deepest_are_text() -> None:
    depth = MAX_NESTING + 3
    found = parse("(" * depth + "a" + ")" * depth)
    assert "".join(piece.text for piece in found) == "(((a)))"
    assert max(piece.weight for piece in found) == MAX_WEIGHT


def test_break_begins_a_part_that_is_encoded_by_itself(draw: Draw) -> None:
    usual = draw(**JOB, prompt="a red apple, a blue house").image
    parted = draw(**JOB, prompt="a red apple BREAK a blue house").image
    assert difference(parted, usual) > 2
    assert parted.tobytes() == draw(**JOB, prompt="a red apple\nBREAK\na blue house BREAK").image.tobytes()


MANY_STEPS: dict[str, Any] = {"steps": 4, "guidance": 4.0}


def test_a_prompt_that_changes_to_itself_is_the_plain_one(draw: Draw) -> None:
    usual = draw(**MANY_STEPS, prompt="a red apple").image
    for same in ("a [red:red:0.5] apple", "a [red|red] apple", "a [blue:red:0] apple", "a [red:blue:4] apple"):
        assert draw(**MANY_STEPS, prompt=same).image.tobytes() == usual.tobytes(), same


@pytest.mark.parametrize("guidance", tiers([1.0, 4.0], first=[4.0]))
@pytest.mark.parametrize("sampler", tiers(["Euler", "Heun"], first=["Heun"]))
def test_a_schedule_changes_the_prompt_at_its_step(draw: Draw, guidance: float, sampler: str) -> None:
    job: dict[str, Any] = {"steps": 4, "guidance": guidance, "sampler": sampler}
    first, second = (draw(**job, prompt=f"a {colour} apple").image for colour in ("red", "blue"))
    half = draw(**job, prompt="a [red:blue:0.5] apple").image
    assert half.tobytes() not in (first.tobytes(), second.tobytes())
    assert draw(**job, prompt="a [red:blue:2] apple").image.tobytes() == half.tobytes()
    assert draw(**job, prompt="a [red:[red:blue:2]:1] apple").image.tobytes() == half.tobytes()


def test_a_negative_prompt_can_change_too_and_lengths_may_differ(draw: Draw) -> None:
    usual = draw(**MANY_STEPS, prompt="a red apple", negative="green").image
    changed = draw(**MANY_STEPS, prompt="a red apple", negative="[green:(blue:1.4):0.5]").image
    assert difference(changed, usual) > 2
    long = ", a blue house" * 40
    assert difference(draw(**MANY_STEPS, prompt=f"a red apple [{long}:2]").image, usual) > 2
