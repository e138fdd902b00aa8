"""The form's table: the same names as Params, in one order."""

from dataclasses import fields
from typing import Any

import pytest

from diffusion_local import catalog
from diffusion_local.catalog import Defaults, Limits, Model
from diffusion_local.compose import House
from diffusion_local.domain import Params
from diffusion_local.web.ui import form
from tests.support import params


def test_the_form_has_fields_of_params_and_the_count() -> None:
    assert list(form.NAMES) == [f.name for f in fields(Params) if f.name in form.NAMES] + ["count"]


def test_every_field_has_a_label_and_a_component(house: House) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        for name in form.NAMES:
            assert form.component(name, house.studio.models()).label.key == f"common.{name}"


@pytest.mark.parametrize("name", ["width", "height", "count"])
def test_half_a_number_is_not_rounded_before_it_is_checked(house: House, name: str) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        assert form.component(name, house.studio.models()).preprocess(1.5) == 1.5


def test_what_is_filled_in_is_read_back() -> None:
    recipe = params(seed=2**32 - 1, guidance=7.25)
    given = form.read(form.fill(recipe))
    assert given.pop("count") == 1
    assert given == {name: getattr(recipe, name) for name in form.NAMES if name != "count"}


@pytest.mark.parametrize(
    ("written", "read"),
    [("", None), (None, None), ("  ", None), ("7", 7), (" -1 ", -1), (7, 7), ("seven", "seven"), ("9" * 40, "9" * 40)],
)
def test_seed_is_a_number_or_nothing_and_else_left_for_the_check(written: Any, read: Any) -> None:
    values = ["x" if name == "prompt" else written if name == "seed" else None for name in form.NAMES]
    assert form.read(values)["seed"] == read


def test_a_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        form.read(["only", "some"])


@pytest.mark.parametrize(
    ("defaults", "limits"),
    [
        (catalog.STARTER_DEFAULTS, catalog.STARTER_LIMITS),
        (Defaults(), Limits()),
        (Defaults(1024, 1024), Limits(multiple=64)),
        (Defaults(512, 512), Limits(max_pixels=512 * 512)),
    ],
)
def test_every_shape_is_a_size_the_model_takes(defaults: Defaults, limits: Limits, house: House) -> None:
    model = Model("m", "M", house.settings.home, "sd", defaults, limits)
    sizes = form.sizes(model)
    assert sizes[0] == ("Square", f"{defaults.width}x{defaults.height}")
    for _, value in sizes:
        catalog.check_size(*value.split("x"), limits, "m")
    assert form.size_of(model, defaults.width, defaults.height) == sizes[0][1]
    assert form.size_of(model, 8, 8) is None
