"""The errors a person meets: each says by itself what is wrong, and the tree in the docstring is the tree."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from diffusion_local import errors
from diffusion_local.errors import (
    MAX_ECHO,
    DiffusionLocalError,
    DiskFull,
    EngineError,
    InvalidParams,
    LimitReached,
    Stopped,
    StorageProblem,
    UserError,
    echo,
)
from diffusion_local.messages import catalogue, message, verbatim
from diffusion_local.options import samplers, values
from tests.sources import nodes
from tests.support import PACKAGE

ALL = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, DiffusionLocalError) and each.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", ALL)
def test_the_tree_in_the_docstring_is_the_tree(error: type[DiffusionLocalError]) -> None:
    assert error.__name__ in (errors.__doc__ or "")
    assert (error.__doc__ or "").strip()


@pytest.mark.parametrize("error", [each for each in ALL if each not in (InvalidParams, LimitReached, Stopped)])
def test_an_error_has_a_message_where_none_is_given(error: type[DiffusionLocalError]) -> None:
    assert error().message.id == error.usual
    assert str(error()) == catalogue()[error.usual]["en"]
    assert error(verbatim("other words")).message == "other words"


def test_a_reached_limit_says_when_to_come_again() -> None:
    error = LimitReached(verbatim("too much"), 30)
    assert (error.message, error.retry_after) == ("too much", 30)


def test_bad_input_names_field_and_problem() -> None:
    error = InvalidParams("steps", message("text"))
    assert (error.field, error.problem, error.message) == ("steps", "must be text.", "steps: must be text.")
    assert error.problem.id == "text"


@pytest.mark.parametrize(("root", "name"), [(UserError, "code"), (EngineError, "kind")])
def test_each_error_has_a_name_of_its_own_for_programs(root: type[DiffusionLocalError], name: str) -> None:
    names = [getattr(each, name) for each in ALL if issubclass(each, root)]
    assert len(set(names)) == len(names)


def test_a_full_disk_is_a_problem_of_the_storage() -> None:
    assert issubclass(DiskFull, StorageProblem)
    assert not EngineError.transient


# -- values in messages

FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "'abc'"),
        (7, "7"),
        (1.5, "1.5"),
        (True, "True"),
        (None, "None"),
        (float("nan"), "nan"),
        ({"a": "secret"}, "an object"),
        (["secret"], "a list"),
        (("secret",), "a list"),
        (b"secret", "another kind of value"),
        (Path("/secret"), "another kind of value"),
        (1 << 300, "a huge number"),
    ],
)
def test_only_short_text_and_numbers_are_repeated(value: Any, shown: str) -> None:
    assert echo(value) == shown


def test_long_text_is_cut() -> None:
    assert echo("x" * 10_000) == repr("x" * MAX_ECHO + "…")


@pytest.mark.parametrize("value", [FILE, [FILE], {"a": [FILE]}, "x" * 100_000], ids=lambda value: str(value)[:30])
@pytest.mark.parametrize(
    "check",
    [
        lambda value: values.check_number("limit", value, 0, 10),
        lambda value: values.check_integer("limit", value, 0, 10),
        lambda value: values.check_choice("sampler", value, ("Euler",)),
        lambda value: values.check_needed_source("source", value, "img2img"),
        lambda value: values.check_file_name("vae", value),
        lambda value: values.check_loras("loras", value),
        samplers.check_sampler,
    ],
)
def test_a_check_does_not_repeat_a_file_reference(check: Any, value: Any) -> None:
    with pytest.raises(InvalidParams) as refused:
        check(value)
    assert "/etc/passwd" not in refused.value.message
    assert len(refused.value.message) < 500


def test_no_message_is_built_with_repr() -> None:
    """Messages for people are built with ``echo``; ``!r`` would repeat whatever the value is."""
    engine = PACKAGE / "engine"  # its values come from model files, not from callers
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        if not path.is_relative_to(engine)
        for node in nodes(path)
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
    ]
    assert found == []
