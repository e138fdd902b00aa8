"""The form's table: the same names as Params, in one order."""

from dataclasses import fields
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Params
from diffusion_local.models import catalog
from diffusion_local.options import validate
from diffusion_local.web.ui import form, form_lists
from tests.support import params


def test_the_form_has_fields_of_params_and_the_count() -> None:
    assert list(form.FORM_FIELDS) == [f.name for f in fields(Params) if f.name in form.FORM_FIELDS] + [
        "count",
        "styles",
        "expand",
    ]


def test_every_field_has_a_label_and_a_component(services: Services) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        for name in form.FORM_FIELDS:
            made = form.component(name, services.studio)
            assert made.visible == "hidden" or made.label.key == f"common.{name}"


def test_no_field_refuses_a_value_that_the_studio_would_explain(services: Services) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        made = [form.component(name, services.studio) for name in form.FORM_FIELDS]
        made += [form_lists.component(name, services.studio) for name in form_lists.LIST_FIELDS]
        numbers = [each for each in made if isinstance(each, gr.Number | gr.Slider)]
        assert {"strength", "count", "list-count", "list-priority"} <= {each.elem_id for each in numbers}
        assert {each.preprocess(-12.5) for each in numbers} == {-12.5}
        choices = [each for each in made if isinstance(each, gr.Dropdown | gr.CheckboxGroup)]
        assert {"sampler", "mask_edges", "expand", "styles"} <= {each.elem_id for each in choices}
        assert {each.elem_id: each.preprocess("nothing") for each in choices} == {
            each.elem_id: "nothing" for each in choices
        }


@pytest.mark.parametrize("name", ["width", "height", "count"])
def test_half_a_number_is_not_rounded_before_it_is_checked(services: Services, name: str) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        assert form.component(name, services.studio).preprocess(1.5) == 1.5


NONE: Any = None
LIKE_STARTER = (catalog.STARTER_DEFAULTS, catalog.STARTER_LIMITS)


def test_what_is_filled_in_is_read_back() -> None:
    recipe = params(seed=2**32 - 1, guidance=7.25)
    options = form.read(form.fill(recipe))
    assert (options.pop("count"), options.pop("styles"), options.pop("expand")) == (1, [], "")
    assert (
        validate.complete("starter", *LIKE_STARTER, options.pop("prompt"), {**options, "model": "starter"}, NONE)
        == recipe
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [("", None), (None, None), ("  ", None), ("7", 7), (" -1 ", -1), (7, 7), ("seven", "seven"), ("9" * 40, "9" * 40)],
)
def test_seed_is_a_number_or_nothing_and_else_left_for_the_check(written: Any, read: Any) -> None:
    values = ["x" if name == "prompt" else written if name == "seed" else None for name in form.FORM_FIELDS]
    assert form.read(values)["seed"] == read


def test_a_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        form.read(["only", "some"])
