"""The errors a person meets: each says by itself what is wrong, and the tree in the docstring is the tree."""

import inspect

import pytest

from diffusion_local import errors
from diffusion_local.errors import (
    DiffusionLocalError,
    DiskFull,
    EngineError,
    InvalidParams,
    LimitReached,
    Stopped,
    UserError,
)

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
def test_the_docstring_is_the_message_where_none_is_given(error: type[DiffusionLocalError]) -> None:
    assert error().message == error.__doc__ == str(error())
    assert error("other words").message == "other words"


def test_a_reached_limit_says_when_to_come_again() -> None:
    error = LimitReached("too much", 30)
    assert (error.message, error.retry_after) == ("too much", 30)


def test_bad_input_names_field_and_problem() -> None:
    error = InvalidParams("steps", "must be at least 1.")
    assert (error.field, error.problem, error.message) == ("steps", "must be at least 1.", "steps: must be at least 1.")


@pytest.mark.parametrize(("root", "name"), [(UserError, "code"), (EngineError, "kind")])
def test_each_error_has_a_name_of_its_own_for_programs(root: type[DiffusionLocalError], name: str) -> None:
    names = [getattr(each, name) for each in ALL if issubclass(each, root)]
    assert len(set(names)) == len(names)


def test_a_full_disk_may_be_emptied() -> None:
    assert DiskFull.transient
    assert not EngineError.transient
