"""Create's form: a component for each option of a picture, for the count, styles and expansion; and the sizes that it
offers for each model.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gradio as gr

from diffusion_local.grammar.prompt_templates import SPECIAL
from diffusion_local.lists.entries import EXPANSIONS
from diffusion_local.models.catalog import Model
from diffusion_local.options.limits import FOLLOW_MODEL, Limits
from diffusion_local.options.option import Option, Widget
from diffusion_local.options.table import OPTIONS, Params, refused_options
from diffusion_local.options.types import Kind
from diffusion_local.studio import Studio
from diffusion_local.web.ui import words
from diffusion_local.web.ui.live import hidden
from diffusion_local.web.ui.words import say

Make = Callable[[Option, Any, Studio], gr.components.Component]

Field = TypeVar("Field", bound=gr.components.Component)
WHOLE_NUMBER = re.compile(r"-?\d{1,20}")
#: Options that a source picture determines.
SIZE_OF_SOURCE = ("width", "height")
#: Width : height of the portrait sizes. The first is each model's own; the others can be turned to landscape.
ASPECT_RATIOS = ((1, 1), (4, 5), (3, 4), (2, 3), (9, 16))


def default(studio: Studio) -> Model:
    return studio.models()[0]


def first(option: Option, studio: Studio) -> Any:
    """The initial value of an option on the page."""
    if option.name in FOLLOW_MODEL:
        return getattr(default(studio).defaults, option.name)
    return option.default if option.initial is None else option.initial


def hint(option: Option, kind: str = "hint") -> Any:
    """The hint for an option (phrase ``common.NAME_KIND``), or None if there is no such phrase."""
    key = f"common.{option.name}_{kind}"
    return words.label(key) if words.has_phrase(key) else None


def prompt(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    return gr.Textbox(
        label=label,
        placeholder=hint(option),
        lines=3,
        max_lines=10,
        autofocus=True,
        elem_id=option.name,
        show_label=False,
        container=False,
    )


def text(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    return gr.Textbox(
        label=label,
        placeholder=hint(option),
        info=hint(option, "info"),
        lines=2 if option.record else 1,
        max_lines=6,
        elem_id=option.name,
    )


def model_choice(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    models = studio.models()
    made = gr.Dropdown(model_choices(models), value=models[0].id, label=label, filterable=False, elem_id=option.name)
    return unchecked(made)


def unchecked(field: Field) -> Field:
    """Leave the validation of a field to the Studio.

    For a value out of bounds, Gradio's message would be just "Error"; for one that is no choice, it would not name the
    field. A choice newer than the server's start would even make it reject every event of a browser that has it
    selected.
    """
    field.preprocess = lambda payload: payload
    return field


def number(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    """A gr.Number. A gr.Slider would clamp the values of a recipe."""
    return gr.Number(
        first(option, studio),
        label=label,
        step=option.step or 1,
        min_width=100,
        elem_id=option.name,
        info=hint(option, "info"),
    )


def slider(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    return unchecked(
        gr.Slider(
            *option.bounds,
            first(option, studio),
            step=option.step,
            label=label,
            info=hint(option, "info"),
            elem_id=option.name,
        )
    )


def seed(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    """A text field. A gr.Number would turn an empty value into 0 when its accordion opens."""
    return gr.Textbox(
        "",
        label=label,
        placeholder=hint(option),
        min_width=120,
        elem_id=option.name,
        max_lines=1,
        html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
    )


def choice(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    value = first(option, studio)
    made = gr.Dropdown(
        choices(option, studio, words.label),
        value=value,
        label=label,
        info=hint(option, "info"),
        filterable=value == "",
        elem_id=option.name,
    )
    return unchecked(made)


def choices(option: Option, studio: Studio, speak: Callable[[str], Any]) -> list[tuple[Any, str]]:
    """(label, value) of a dropdown's choices. If none is preselected, the first one is the model's own value, ""."""
    known = [*option.choices, *(usable(studio, option.files) if option.files else ())]
    if option.initial is not None and option.initial not in known:
        known = [option.initial, *known]
    own: list[tuple[Any, str]] = []
    if option.initial is None and not option.required and not option.default:
        own = [(models_own(option, speak), "")]
    return [*own, *((each, each) for each in known)]


def models_own(option: Option, speak: Callable[[str], Any]) -> Any:
    """Label of the choice that leaves an option to the model: ``common.NAME_own``, or a general phrase."""
    key = f"common.{option.name}_own"
    return speak(key if words.has_phrase(key) else "create.models_own")


def hidden_field(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    """A hidden value that a script displays and sets (``source.js``, ``loras.js``, ``pictures.js``)."""
    return hidden(str(option.default or ""), f"field-{option.name}")


def count(studio: Studio) -> gr.components.Component:
    return gr.Number(1, label=words.label("common.count"), step=1, min_width=90, elem_id="count")


def styles(studio: Studio) -> gr.components.Component:
    """Styles as tiles. Bundled ones have pictures (``create.css``); the user's own have only a name."""
    names = [each.name for each in studio.styles.all()]
    return unchecked(
        gr.CheckboxGroup(names, value=[], show_label=False, label=words.label("common.styles"), elem_id="styles")
    )


def expand(studio: Studio) -> gr.components.Component:
    offered = [
        (words.label("create.expand_own"), ""),
        *((words.label(f"lists.expand_{each}"), each) for each in EXPANSIONS),
    ]
    return unchecked(
        gr.Dropdown(offered, value="", label=words.label("common.expand"), filterable=False, elem_id="expand")
    )


def usable(studio: Studio, folder: str) -> list[str]:
    return [each.name for each in studio.library.adapters()[folder] if each.ready]


MAKERS: dict[Widget, Make] = {
    Widget.PROMPT: prompt,
    Widget.TEXT: text,
    Widget.MODEL: model_choice,
    Widget.NUMBER: number,
    Widget.SLIDER: slider,
    Widget.SEED: seed,
    Widget.CHOICE: choice,
    Widget.HIDDEN: hidden_field,
}
#: Fields of the form that are not options of a picture.
FORM_EXTRAS: dict[str, Callable[[Studio], gr.components.Component]] = {
    "count": count,
    "styles": styles,
    "expand": expand,
}
FORM_FIELDS = (*OPTIONS, *FORM_EXTRAS)
MOST_SOURCES = 50  # source pictures of one press
#: Options whose choices are files, which may be newer than the server's start.
FILE_FIELDS = tuple(name for name, each in OPTIONS.items() if each.files and each.component is Widget.CHOICE)


def component(name: str, studio: Studio) -> Any:
    """Create the component of a field. Gradio places it in the current layout block."""
    if name in FORM_EXTRAS:
        return FORM_EXTRAS[name](studio)
    option = OPTIONS[name]
    return MAKERS[option.component](option, words.label(f"common.{name}"), studio)


def at(place: str) -> list[str]:
    """Names of the options at a place of the form."""
    return [name for name, option in OPTIONS.items() if option.place == place]


def rows_for_experts() -> list[list[str]]:
    places = dict.fromkeys(option.place for option in OPTIONS.values() if option.place.startswith("expert."))
    return [at(place) for place in places]


def read(values: Sequence[Any]) -> dict[str, Any]:
    """The form's values as keyword arguments of ``Studio.submit``, plus ``styles``. ``values``: in form order.

    Options that do not apply to the kind of work become None; an upscale has only those that apply to it. Of several
    source pictures the first is read; see `further_sources`.
    """
    given = dict(zip(FORM_FIELDS, values, strict=True))
    given["source"] = next(iter(sources(given["source"])), given["source"])
    given["prompt"] = given["prompt"] or ""
    for name, option in OPTIONS.items():
        if option.component is Widget.SEED:
            written = str(given[name] if given[name] is not None else "").strip()
            given[name] = int(written) if WHOLE_NUMBER.fullmatch(written) else written or None
    kind = given["kind"] = given["kind"] or Kind.TXT2IMG
    if kind in tuple(Kind):
        given |= dict.fromkeys(refused_options(Kind(kind)))
    if kind == Kind.UPSCALE:
        given = {
            name: each for name, each in given.items() if name in FORM_EXTRAS or Kind.UPSCALE in OPTIONS[name].kinds
        }
    elif kind != Kind.TXT2IMG:
        given |= dict.fromkeys(SIZE_OF_SOURCE)
    return given


def sources(field_value: Any) -> list[str]:
    """Ids of the source pictures in the form's field, which separates them by spaces."""
    return field_value.split() if isinstance(field_value, str) else []


def further_sources(values: Sequence[Any]) -> list[str]:
    """Ids of the form's source pictures after the first one. ``values``: in form order."""
    return sources(values[FORM_FIELDS.index("source")])[1:MOST_SOURCES]


def fill(params: Params) -> list[Any]:
    """Values of all components, in form order, that reproduce a recipe as a single picture."""
    values = {name: filled(option, getattr(params, name), params.kind) for name, option in OPTIONS.items()}
    written = SPECIAL.search(f"{params.prompt} {params.negative}")  # a recipe's prompts are already expanded
    values |= {"count": 1, "styles": [], "expand": "no" if written else ""}
    if params.kind is Kind.UPSCALE:  # an upscale has none of these, so the form keeps its values
        values |= {name: gr.skip() for name in FOLLOW_MODEL}
    return [values[name] for name in FORM_FIELDS]


def filled(option: Option, value: Any, kind: Kind) -> Any:
    if option.initial is not None and not option.is_set(value, kind):
        return option.initial
    if option.component is Widget.SEED:
        return "" if value is None else str(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value) if option.component is Widget.HIDDEN else value


def only(**changes: Any) -> list[Any]:
    """Values of all components, in form order, that change only these fields."""
    return [changes.get(name, gr.skip()) for name in FORM_FIELDS]


def differences(before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Names of the settings that differ between two lists of form values, without prompt, count and expansion."""
    return [
        name
        for name, old, new in zip(FORM_FIELDS, before, after, strict=True)
        if name not in ("prompt", "count", "expand") and not isinstance(new, dict) and (old or "") != (new or "")
    ]


def model_choices(models: Sequence[Model]) -> list[tuple[str, str]]:
    return [(each.name if each.ready else say("create.model_not_ready", model=each.name), each.id) for each in models]


def sizes(model: Model, landscape: bool = False) -> list[tuple[str, str]]:
    """Sizes of about the model's own number of pixels, as ("3:4", "WIDTHxHEIGHT"), within its limits."""
    area = model.defaults.width * model.defaults.height
    offered = []
    for shape in ASPECT_RATIOS:
        across, down = reversed(shape) if landscape else shape
        width = fitting(math.sqrt(area * across / down), model.limits)
        height = fitting(math.sqrt(area * down / across), model.limits)
        if width * height <= model.limits.max_pixels:
            offered.append((f"{across}:{down}", f"{width}x{height}"))
    return offered


def fitting(side: float, limits: Limits) -> int:
    rounded = round(side / limits.multiple) * limits.multiple
    return max(limits.min_size, min(limits.max_size, rounded))


def landscape(width: Any, height: Any) -> bool:
    return all(isinstance(side, int | float) for side in (width, height)) and width > height


def size_of(model: Model, width: Any, height: Any) -> str | None:
    """The value in `sizes` of this size, or None."""
    known = [value for _, value in sizes(model, landscape(width, height))]
    chosen = f"{width}x{height}"
    return chosen if chosen in known else None


def moved(before: Model, model: Model, width: Any, height: Any) -> tuple[Any, Any]:
    """The size for ``model`` in place of one for ``before``.

    This is the size of the same aspect ratio; for a size without a button the same one, or the model's own if that is
    out of its limits.
    """
    lying = landscape(width, height)
    shapes = {value: shape for shape, value in sizes(before, lying)}
    shape = shapes.get(f"{width}x{height}")
    for each, value in sizes(model, lying):
        if each == shape:
            across, down = value.split("x")
            return int(across), int(down)
    limits = model.limits
    sides = (width, height)
    if all(isinstance(side, int | float) and limits.min_size <= side <= limits.max_size for side in sides):
        return width, height
    return model.defaults.width, model.defaults.height
