"""The form of Create: a component for each option of a picture, for the count and the styles; and the sizes it
offers for each model.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gradio as gr

from diffusion_local.grammar.templates import SPECIAL
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


def default(studio: Studio) -> Model:
    return studio.models()[0]


def first(option: Option, studio: Studio) -> Any:
    """The initial value of an option on the page."""
    if option.name in FOLLOW_MODEL:
        return getattr(default(studio).defaults, option.name)
    return option.default if option.initial is None else option.initial


def hint(option: Option, kind: str = "hint") -> Any:
    """The hint for an option (phrase ``common.NAME_hint``), or None."""
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
    """A field validated by the Studio only. Gradio would answer a value out of bounds with "Error" alone, and a file
    may be newer than the page: it would reject every event of a browser that has it selected.
    """
    field.preprocess = lambda payload: payload
    return field


def number(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    """A gr.Number instead of a gr.Slider, which would clamp the values of a recipe."""
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
    """A text field instead of gr.Number, which turns an empty value into 0 when its accordion opens."""
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
    return unchecked(made) if option.files else made


def choices(option: Option, studio: Studio, speak: Callable[[str], Any]) -> list[tuple[Any, str]]:
    """Choices of a dropdown; if none is preselected, the model's own value comes first."""
    known = [*option.choices, *(usable(studio, option.files) if option.files else ())]
    if option.initial is not None and option.initial not in known:
        known = [option.initial, *known]
    own: list[tuple[Any, str]] = []
    if option.initial is None and not option.required and not option.default:
        own = [(models_own(option, speak), "")]
    return [*own, *((each, each) for each in known)]


def models_own(option: Option, speak: Callable[[str], Any]) -> Any:
    """Placeholder of an option left to the model: ``common.NAME_own``, or a general phrase."""
    key = f"common.{option.name}_own"
    return speak(key if words.has_phrase(key) else "create.models_own")


def kept(option: Option, label: Any, studio: Studio) -> gr.components.Component:
    """A value that a script of the page displays and sets (``source.js``, ``loras.js``, ``pictures.js``)."""
    return hidden(str(option.default or ""), f"field-{option.name}")


def count(studio: Studio) -> gr.components.Component:
    return gr.Number(1, label=words.label("common.count"), step=1, min_width=90, elem_id="count")


def styles(studio: Studio) -> gr.components.Component:
    """Tiles with the pictures of the bundled ones (create.css); a style of the home is named only."""
    names = [each.name for each in studio.styles.all()]
    return gr.CheckboxGroup(names, value=[], show_label=False, label=words.label("common.styles"), elem_id="styles")


def expand(studio: Studio) -> gr.components.Component:
    offered = [
        (words.label("create.expand_own"), ""),
        *((words.label(f"lists.expand_{each}"), each) for each in EXPANSIONS),
    ]
    return gr.Dropdown(offered, value="", label=words.label("common.expand"), filterable=False, elem_id="expand")


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
    Widget.HIDDEN: kept,
}
#: Fields in addition to the options of a picture.
FORM_EXTRAS: dict[str, Callable[[Studio], gr.components.Component]] = {
    "count": count,
    "styles": styles,
    "expand": expand,
}
FORM_FIELDS = (*OPTIONS, *FORM_EXTRAS)
#: Options that choose a file, which may have come after the server's start.
FILE_FIELDS = tuple(name for name, each in OPTIONS.items() if each.files and each.component is Widget.CHOICE)
WHOLE_NUMBER = re.compile(r"-?\d{1,20}")
#: Decided by the size of a source picture.
FROM_SOURCE = ("width", "height")


def component(name: str, studio: Studio) -> Any:
    """The component of a field, created where the layout places it."""
    if name in FORM_EXTRAS:
        return FORM_EXTRAS[name](studio)
    option = OPTIONS[name]
    return MAKERS[option.component](option, words.label(f"common.{name}"), studio)


def at(place: str) -> list[str]:
    """Options placed at a location of the form."""
    return [name for name, option in OPTIONS.items() if option.place == place]


def rows_for_experts() -> list[list[str]]:
    places = dict.fromkeys(option.place for option in OPTIONS.values() if option.place.startswith("expert."))
    return [at(place) for place in places]


def read(values: Sequence[Any]) -> dict[str, Any]:
    """The components' values, in the form's order, as arguments of ``Studio.submit``, and the ``styles``.

    Options that do not apply to the kind of work are left out, wherever their components are.
    """
    given = dict(zip(FORM_FIELDS, values, strict=True))
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
        given |= dict.fromkeys(FROM_SOURCE)
    return given


def fill(params: Params) -> list[Any]:
    """Values of the components that show this recipe, as a single picture."""
    values = {name: filled(option, getattr(params, name), params.kind) for name, option in OPTIONS.items()}
    written = SPECIAL.search(f"{params.prompt} {params.negative}")  # a recipe's prompts are drawn already
    values |= {"count": 1, "styles": [], "expand": "no" if written else ""}
    if params.kind is Kind.UPSCALE:  # it has none of these; the form keeps its own
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
    """Update these fields and leave the others."""
    return [changes.get(name, gr.skip()) for name in FORM_FIELDS]


def differences(before: Sequence[Any], after: Sequence[Any]) -> list[str]:
    """Names of the settings, except the prompt, that a recipe has changed."""
    return [
        name
        for name, old, new in zip(FORM_FIELDS, before, after, strict=True)
        if name not in ("prompt", "count", "expand") and not isinstance(new, dict) and (old or "") != (new or "")
    ]


def model_choices(models: Sequence[Model]) -> list[tuple[str, str]]:
    return [(each.name if each.ready else say("create.model_not_ready", model=each.name), each.id) for each in models]


#: Width : height of the upright shapes; the first is every model's own size. Each but the first can be turned.
ASPECT_RATIOS = ((1, 1), (4, 5), (3, 4), (2, 3), (9, 16))


def sizes(model: Model, landscape: bool = False) -> list[tuple[str, str]]:
    """Shapes close to the model's own number of pixels, as ("3:4", "WIDTHxHEIGHT")."""
    area = model.defaults.width * model.defaults.height
    found = []
    for shape in ASPECT_RATIOS:
        across, down = reversed(shape) if landscape else shape
        width = fitting(math.sqrt(area * across / down), model.limits)
        height = fitting(math.sqrt(area * down / across), model.limits)
        if width * height <= model.limits.max_pixels:
            found.append((f"{across}:{down}", f"{width}x{height}"))
    return found


def fitting(side: float, limits: Limits) -> int:
    rounded = round(side / limits.multiple) * limits.multiple
    return max(limits.min_size, min(limits.max_size, rounded))


def landscape(width: Any, height: Any) -> bool:
    return all(isinstance(side, int | float) for side in (width, height)) and width > height


def size_of(model: Model, width: Any, height: Any) -> str | None:
    """The shape with this size, if there is one."""
    known = [value for _, value in sizes(model, landscape(width, height))]
    chosen = f"{width}x{height}"
    return chosen if chosen in known else None


def moved(before: Model, model: Model, width: Any, height: Any) -> tuple[Any, Any]:
    """Translate a size of one model to another: the same shape, or the same size if the model supports it."""
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
