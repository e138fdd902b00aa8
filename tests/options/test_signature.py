"""Functions that take options show every one in their signature."""

import inspect
from typing import Any

import pytest

from diffusion_local.options.signature import with_options
from diffusion_local.options.table import SETTINGS


@with_options()
def submit(prompt: str, count: int = 1, **options: Any) -> dict[str, Any]:
    """Words."""
    return {"prompt": prompt, "count": count, "options": options}


def test_options_are_spelled_out_behind_the_required_parameters() -> None:
    parameters = inspect.signature(submit).parameters
    assert list(parameters) == ["prompt", *SETTINGS, "count"]
    assert parameters["width"].annotation == int | None
    assert inspect.signature(submit).return_annotation == dict[str, Any]
    assert (submit.__name__, submit.__doc__) == ("submit", "Words.")


def test_they_arrive_by_name_or_by_place() -> None:
    assert submit("x", "blur", count=2)["options"] == {"negative": "blur"}
    assert submit(prompt="x", width=8) == {"prompt": "x", "count": 1, "options": {"width": 8}}
    with pytest.raises(TypeError):
        submit("x", colour="red")
