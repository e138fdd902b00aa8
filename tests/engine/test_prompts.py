"""Weighted and long prompts: marks say what they say in A1111, and what needs none of it keeps its pixels."""

from typing import Any

import numpy as np
import pytest
from PIL import Image as PIL

from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.prompts import DEEPEST, MOST, Piece, pieces, plain
from tests.engine.conftest import Draw

JOB: dict[str, Any] = {"steps": 2, "guidance": 4.0}


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
    found = pieces(prompt)
    assert [piece.text for piece in found] == [text for text, _ in expected]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in expected])


def test_text_without_weights_is_told_apart() -> None:
    assert plain(r"a \(red\) apple") == "a (red) apple"
    assert plain("(red:1.0) apple") == "red apple"
    assert plain("(red) apple") is None
    assert pieces("x") == [Piece("x")]


def test_weights_change_pixels_and_neutral_ones_do_not(draw: Draw) -> None:
    usual = draw(**JOB, prompt="a red apple").image
    assert draw(**JOB, prompt="a (red:1.0) apple").image.tobytes() == usual.tobytes()
    more, less = (draw(**JOB, prompt=f"a (red:{weight}) apple").image for weight in (1.6, 0.4))
    assert difference(more, usual) > 8
    assert difference(less, usual) > 8
    assert difference(more, less) > 8


def test_a_negative_prompt_can_be_weighted(draw: Draw) -> None:
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
    depth = DEEPEST + 3
    found = pieces("(" * depth + "a" + ")" * depth)
    assert "".join(piece.text for piece in found) == "(((a)))"
    assert max(piece.weight for piece in found) == MOST
