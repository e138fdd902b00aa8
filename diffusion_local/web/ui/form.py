"""The form: one table from the fields of Params (and the count) to their components, in one order.

To add a setting, add the field to ``Params`` and a line here; a test holds the order equal.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusion_local.catalog import SAMPLERS, Limits, Model
from diffusion_local.domain import Params
from diffusion_local.web.ui import words
from diffusion_local.web.ui.words import say

#: Shapes as (name, width : height); the first is every model's own size.
SHAPES = (("square", 1, 1), ("portrait", 3, 4), ("landscape", 4, 3), ("tall", 9, 16), ("wide", 16, 9))

Make = Callable[[str, Model, Sequence[Model]], gr.components.Component]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of Params and how its component is made from the chosen model and all models."""

    name: str
    make: Make


def prompt(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Textbox(
        label=label,
        placeholder=words.label("create.prompt_hint"),
        lines=3,
        max_lines=10,
        autofocus=True,
        elem_id="prompt",
        show_label=False,
        container=False,
    )


def negative(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Textbox(label=label, placeholder=words.label("create.negative_hint"), lines=1, max_lines=6)


def model_choice(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Dropdown(model_choices(models), value=model.id, label=label, filterable=False, elem_id="model")


def pixels(side: str) -> Make:
    def make(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
        return gr.Number(getattr(model.defaults, side), label=label, step=model.limits.multiple, min_width=100)

    return make


def steps(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Slider(1, max(each.limits.max_steps for each in models), model.defaults.steps, step=1, label=label)


def guidance(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    most = max(each.limits.max_guidance for each in models)
    return gr.Slider(0, most, model.defaults.guidance, step=0.5, label=label, info=words.label("create.guidance_info"))


def sampler(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Dropdown(list(SAMPLERS), value=model.defaults.sampler, label=label, filterable=False)


def seed(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    # Text, not gr.Number: that one turns "empty" into 0 when its accordion opens.
    return gr.Textbox(
        "",
        label=label,
        placeholder=words.label("create.seed_hint"),
        min_width=120,
        scale=3,
        elem_id="seed",
        max_lines=1,
        html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
    )


def count(label: str, model: Model, models: Sequence[Model]) -> gr.components.Component:
    return gr.Number(1, label=label, step=1, min_width=100, elem_id="count")


FIELDS = (
    Field("prompt", prompt),
    Field("negative", negative),
    Field("model", model_choice),
    Field("width", pixels("width")),
    Field("height", pixels("height")),
    Field("steps", steps),
    Field("guidance", guidance),
    Field("sampler", sampler),
    Field("seed", seed),
    Field("count", count),
)
NAMES = tuple(field.name for field in FIELDS)
#: What a model brings its own defaults for.
FOLLOW_MODEL = ("width", "height", "steps", "guidance", "sampler")


def component(name: str, models: Sequence[Model]) -> Any:
    """The component of one field, made where the layout wants it."""
    field = next(each for each in FIELDS if each.name == name)
    return field.make(words.label(f"common.{name}"), models[0], models)


def read(values: Sequence[Any]) -> dict[str, Any]:
    """The components' values, in the table's order, as arguments of ``Studio.submit``."""
    given = dict(zip(NAMES, values, strict=True))
    given["prompt"] = given["prompt"] or ""
    written = str(given["seed"] if given["seed"] is not None else "").strip()
    given["seed"] = int(written) if re.fullmatch(r"-?\d{1,20}", written) else written or None
    return given


def fill(params: Params) -> list[Any]:
    """The components' values that show this recipe, as one picture."""
    values = {name: getattr(params, name, None) for name in NAMES} | {"seed": str(params.seed), "count": 1}
    return [values[name] for name in NAMES]


def with_prompt(words: str) -> list[Any]:
    """Only the prompt changes."""
    return [words if name == "prompt" else gr.skip() for name in NAMES]


def defaults(model: Model) -> list[Any]:
    """Values of the fields that follow the model."""
    return [getattr(model.defaults, name) for name in FOLLOW_MODEL]


def model_choices(models: Sequence[Model]) -> list[tuple[str, str]]:
    return [(each.name if each.ready else say("create.model_not_ready", model=each.name), each.id) for each in models]


def sizes(model: Model) -> list[tuple[str, str]]:
    """Shapes near the model's own number of pixels, as (name, "WIDTHxHEIGHT")."""
    area = model.defaults.width * model.defaults.height
    found = []
    for name, across, down in SHAPES:
        width = fitting(math.sqrt(area * across / down), model.limits)
        height = fitting(math.sqrt(area * down / across), model.limits)
        if width * height <= model.limits.max_pixels:
            found.append((say(f"create.{name}"), f"{width}x{height}"))
    return found


def fitting(side: float, limits: Limits) -> int:
    rounded = round(side / limits.multiple) * limits.multiple
    return max(limits.min_size, min(limits.max_size, rounded))


def size_of(model: Model, width: Any, height: Any) -> str | None:
    """The shape that has this size, if one does."""
    known = [value for _, value in sizes(model)]
    chosen = f"{width}x{height}"
    return chosen if chosen in known else None
