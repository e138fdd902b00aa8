"""The table of wishes is the fields of Params; functions that take them show every one."""

import inspect
from typing import Any

import pytest

from diffusion_local.completion import SETTINGS
from diffusion_local.wishes import WISHES, taking_wishes


def test_there_is_a_wish_for_each_setting_in_its_order() -> None:
    assert tuple(WISHES) == SETTINGS
    assert all(wish.meaning for wish in WISHES.values())


@taking_wishes()
def submit(prompt: str, count: int = 1, **wishes: Any) -> dict[str, Any]:
    """Words."""
    return {"prompt": prompt, "count": count, "wishes": wishes}


def test_wishes_are_spelled_out_behind_what_is_required() -> None:
    parameters = inspect.signature(submit).parameters
    assert list(parameters) == ["prompt", *WISHES, "count"]
    assert parameters["width"].annotation == int | None
    assert inspect.signature(submit).return_annotation == dict[str, Any]
    assert (submit.__name__, submit.__doc__) == ("submit", "Words.")


def test_they_arrive_by_name_or_by_place() -> None:
    assert submit("x", "blur", count=2)["wishes"] == {"negative": "blur"}
    assert submit(prompt="x", width=8) == {"prompt": "x", "count": 1, "wishes": {"width": 8}}
    with pytest.raises(TypeError):
        submit("x", colour="red")
