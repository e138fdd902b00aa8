"""The form: one table from the fields of Params (and the count and styles) to their components, in one order.

To add a setting, add the field to ``Params`` and a line here; a test holds the order equal.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusion_local.catalog import SAMPLERS, Model
from diffusion_local.checks import SCHEDULES
from diffusion_local.completion import LANCZOS, OWN, SCALE, STRENGTHS
from diffusion_local.domain import RUNGS, Kind, Params
from diffusion_local.studio import Studio
from diffusion_local.web.ui import words
from diffusion_local.web.ui.live import hidden
from diffusion_local.web.ui.words import say

Make = Callable[[str, Studio], gr.components.Component]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of Params and how its component is made."""

    name: str
    make: Make


def default(studio: Studio) -> Model:
    return studio.models()[0]


def prompt(label: str, studio: Studio) -> gr.components.Component:
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


def negative(label: str, studio: Studio) -> gr.components.Component:
    return gr.Textbox(
        label=label, placeholder=words.label("create.negative_hint"), lines=1, max_lines=6, elem_id="negative"
    )


def model_choice(label: str, studio: Studio) -> gr.components.Component:
    models = studio.models()
    return gr.Dropdown(model_choices(models), value=models[0].id, label=label, filterable=False, elem_id="model")


def following(name: str, step: float) -> Make:
    """A number that follows the model. gr.Number and not gr.Slider, which would clamp what a recipe says."""

    def make(label: str, studio: Studio) -> gr.components.Component:
        return gr.Number(getattr(default(studio).defaults, name), label=label, step=step, min_width=100, elem_id=name)

    return make


def fraction(name: str, value: float, key: str) -> Make:
    def make(label: str, studio: Studio) -> gr.components.Component:
        return gr.Slider(0, 1, value, step=0.05, label=label, info=words.label(key), elem_id=name)

    return make


def sampler(label: str, studio: Studio) -> gr.components.Component:
    value = default(studio).defaults.sampler
    return gr.Dropdown(list(SAMPLERS), value=value, label=label, filterable=False, elem_id="sampler")


def choice(name: str, known: Callable[[Studio], Sequence[str]], key: str = "create.models_own") -> Make:
    """One of these, or what the model has of its own."""

    def make(label: str, studio: Studio) -> gr.components.Component:
        own: list[tuple[Any, str]] = [(words.label(key), "")]
        return gr.Dropdown([*own, *((each, each) for each in known(studio))], value="", label=label, elem_id=name)

    return make


def number_or_nothing(name: str, key: str) -> Make:
    """Text, not gr.Number: that one turns "empty" into 0 when its accordion opens."""

    def make(label: str, studio: Studio) -> gr.components.Component:
        return gr.Textbox(
            "",
            label=label,
            placeholder=words.label(key),
            min_width=120,
            elem_id=name,
            max_lines=1,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )

    return make


def clip_skip(label: str, studio: Studio) -> gr.components.Component:
    return gr.Number(0, label=label, step=1, min_width=100, info=words.label("create.clip_skip_info"))


def upscaler(label: str, studio: Studio) -> gr.components.Component:
    return gr.Dropdown(
        [LANCZOS, *usable(studio, "upscalers")], value=LANCZOS, label=label, filterable=False, elem_id="upscaler"
    )


def scale(label: str, studio: Studio) -> gr.components.Component:
    return gr.Number(SCALE, label=label, step=0.5, min_width=100, elem_id="scale")


def count(label: str, studio: Studio) -> gr.components.Component:
    return gr.Number(1, label=label, step=1, min_width=90, elem_id="count")


def styles(label: str, studio: Studio) -> gr.components.Component:
    return gr.Dropdown(
        [each.name for each in studio.styles.all()], value=[], multiselect=True, label=label, elem_id="styles"
    )


def kept(name: str, value: str = "") -> Make:
    """A value that ``source.js`` and ``loras.js`` show and set."""

    def make(label: str, studio: Studio) -> gr.components.Component:
        return hidden(value, f"field-{name}")

    return make


def usable(studio: Studio, kind: str) -> list[str]:
    return [each.name for each in studio.library.adapters()[kind] if each.ready]


FIELDS = (
    Field("prompt", prompt),
    Field("negative", negative),
    Field("model", model_choice),
    Field("width", following("width", 8)),
    Field("height", following("height", 8)),
    Field("steps", following("steps", 1)),
    Field("guidance", following("guidance", 0.5)),
    Field("sampler", sampler),
    Field("seed", number_or_nothing("seed", "create.seed_hint")),
    Field("kind", kept("kind", Kind.TXT2IMG)),
    Field("source", kept("source")),
    Field("mask", kept("mask")),
    Field("strength", fraction("strength", STRENGTHS[Kind.IMG2IMG], "create.strength_info")),
    Field("loras", kept("loras")),
    Field("vae", choice("vae", lambda studio: usable(studio, "vae"))),
    Field("clip_skip", clip_skip),
    Field("schedule", choice("schedule", lambda studio: SCHEDULES)),
    Field("variation_seed", number_or_nothing("variation_seed", "create.seed_hint")),
    Field("variation_strength", fraction("variation_strength", 0, "create.variation_info")),
    Field("upscaler", upscaler),
    Field("scale", scale),
    Field("rung", choice("rung", lambda studio: tuple(RUNGS), "create.automatic")),
    Field("count", count),
    Field("styles", styles),
)
NAMES = tuple(field.name for field in FIELDS)
#: What a model brings its own defaults for.
FOLLOW_MODEL = ("width", "height", "steps", "guidance", "sampler")
WHOLE_NUMBER = re.compile(r"-?\d{1,20}")
#: All that an upscale is told; and what the size of a source decides.
UPSCALED = ("prompt", "negative", "model", "seed", "kind", "source", "upscaler", "scale", "rung", "count", "styles")
FROM_SOURCE = ("width", "height")


def component(name: str, studio: Studio) -> Any:
    """The component of one field, made where the layout wants it."""
    field = next(each for each in FIELDS if each.name == name)
    return field.make(words.label(f"common.{name}"), studio)


def read(values: Sequence[Any]) -> dict[str, Any]:
    """The components' values, in the table's order, as arguments of ``Studio.submit`` and the ``styles``.

    What means nothing to the kind of work is left out, wherever its component stands.
    """
    given = dict(zip(NAMES, values, strict=True))
    given["prompt"] = given["prompt"] or ""
    for name in ("seed", "variation_seed"):
        written = str(given[name] if given[name] is not None else "").strip()
        given[name] = int(written) if WHOLE_NUMBER.fullmatch(written) else written or None
    kind = given["kind"] = given["kind"] or Kind.TXT2IMG
    if kind in OWN:
        foreign = {name for own in OWN.values() for name in own} - set(OWN[Kind(kind)])
        given = {name: None if name in foreign else value for name, value in given.items()}
    if kind == Kind.UPSCALE:
        given = {name: value for name, value in given.items() if name in UPSCALED}
    elif kind != Kind.TXT2IMG:
        given |= dict.fromkeys(FROM_SOURCE)
    return given


def fill(params: Params) -> list[Any]:
    """The components' values that show this recipe, as one picture."""
    values = {name: getattr(params, name, None) for name in NAMES}
    values |= {"seed": str(params.seed), "count": 1, "styles": [], "kind": str(params.kind)}
    values["loras"] = ", ".join(map(str, params.loras))
    values["variation_seed"] = "" if params.variation_seed is None else str(params.variation_seed)
    values["strength"] = params.strength or STRENGTHS[Kind.IMG2IMG]
    values["upscaler"], values["scale"] = params.upscaler or LANCZOS, params.scale or SCALE
    if params.kind is Kind.UPSCALE:  # it has none of these; the form keeps its own
        values |= {name: gr.skip() for name in FOLLOW_MODEL}
    return [values[name] for name in NAMES]


def only(**changes: Any) -> list[Any]:
    """These fields change, the others stay."""
    return [changes.get(name, gr.skip()) for name in NAMES]


def differences(before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Names of the settings, other than the prompt, that a recipe has changed."""
    return [
        name
        for name, old, new in zip(NAMES, before, after, strict=True)
        if name not in ("prompt", "count") and not isinstance(new, dict) and (old or "") != (new or "")
    ]


def model_choices(models: Sequence[Model]) -> list[tuple[str, str]]:
    return [(each.name if each.ready else say("create.model_not_ready", model=each.name), each.id) for each in models]
