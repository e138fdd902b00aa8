"""The form of the Lists tab: a table of the components for lists and grids, in the order of the form's values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusion_local.lists.entries import EXPANSIONS, parse_size
from diffusion_local.lists.grid import PROMPT_AXES
from diffusion_local.lists.list_formats import LIST_PARSERS
from diffusion_local.options.option import Option, Widget
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS
from diffusion_local.options.types import Kind
from diffusion_local.studio import Studio
from diffusion_local.web.ui import form
from diffusion_local.web.ui.form import model_choices, unchecked
from diffusion_local.web.ui.words import has_phrase, label, say

REPLACED = PROMPT_AXES
LORA = "lora "
SIZE_OPTIONS = ("width", "height")
#: Options that apply to every picture of a list: those of a picture without a source, except the size (one field).
OF_PICTURES = tuple(
    name
    for name, option in OPTIONS.items()
    if Kind.TXT2IMG in option.kinds and not option.is_picture and name not in ("prompt", "kind", *SIZE_OPTIONS)
)
#: Axes that a grid offers. The installed LoRAs follow them, and any other field can be typed.
AXES = (*PROMPT_AXES, "size", *(name for name in OF_PICTURES if OPTIONS[name].varies and name not in PROMPT_AXES))
#: Options whose choices are files, which may be newer than the server's start.
LIST_FILE_FIELDS = tuple(name for name in form.FILE_FIELDS if name in OF_PICTURES)
Make = Callable[[Studio], Any]


def text_field(name: str, hint: str = "", **more: Any) -> Make:
    """A text field, because a gr.Number cannot be empty, which here means the model's value."""

    def make(studio: Studio) -> Any:
        placeholder = label(hint) if hint else None
        words = label(f"common.{name}")
        return gr.Textbox(
            label=words, placeholder=placeholder, max_lines=1, elem_id=f"list-{name}", min_width=130, **more
        )

    return make


def choice(name: str, values: Sequence[str]) -> Make:
    def make(studio: Studio) -> Any:
        choices: list[Any] = [(label(f"lists.{name}_{each}"), each) for each in values]
        words = label(f"common.{name}")
        return unchecked(
            gr.Dropdown(choices, value=values[0], label=words, filterable=False, elem_id=f"list-{name}", min_width=150)
        )

    return make


def number(name: str, value: int) -> Make:
    """A number without bounds: the Studio's message names the field and its limits, Gradio's would be just "Error"."""

    def make(studio: Studio) -> Any:
        return gr.Number(value, label=label(f"common.{name}"), step=1, elem_id=f"list-{name}", min_width=90)

    return make


def mode(studio: Studio) -> Any:
    choices: list[Any] = [(label("lists.mode_list"), "list"), (label("lists.mode_grid"), "grid")]
    return gr.Radio(
        choices, value="list", show_label=False, label=label("lists.mode"), container=False, elem_id="list-mode"
    )


def text(studio: Studio) -> Any:
    return gr.Textbox(
        label=label("common.list"),
        placeholder=label("lists.text_hint"),
        lines=7,
        max_lines=16,
        elem_id="list-text",
        show_label=False,
        container=False,
    )


def prompt(studio: Studio) -> Any:
    hint, words = label("lists.grid_hint"), label("common.prompt")
    return gr.Textbox(label=words, placeholder=hint, lines=2, max_lines=8, elem_id="list-prompt")


def model(studio: Studio) -> Any:
    choices: list[Any] = [(label("lists.own_model"), ""), *model_choices(studio.models())]
    return unchecked(
        gr.Dropdown(
            choices, value="", label=label("common.model"), filterable=False, elem_id="list-model", min_width=150
        )
    )


def option(name: str) -> Make:
    """An option that applies to every picture; empty means the model's value."""
    each = OPTIONS[name]
    if each.component is Widget.MODEL:
        return model
    if each.component is Widget.CHOICE:
        return option_choice(each)
    wide = {"scale": 3} if name in REPLACED else {}
    return text_field(name, f"common.{name}_hint" if has_phrase(f"common.{name}_hint") else "lists.own", **wide)


def option_choice(each: Option) -> Make:
    def make(studio: Studio) -> Any:
        return unchecked(
            gr.Dropdown(
                choices_of(each, studio, label),
                value="",
                label=label(f"common.{each.name}"),
                elem_id=f"list-{each.name}",
                min_width=150,
            )
        )

    return make


def choices_of(each: Option, studio: Studio, speak: Callable[[str], Any]) -> list[Any]:
    own = (form.models_own(each, speak), "")
    return [own, *((name, name) for _, name in form.choices(each, studio, speak) if name)]


def axis(name: str) -> Make:
    def make(studio: Studio) -> Any:
        words = label(f"common.{name}")
        return unchecked(
            gr.Dropdown(
                axes(label),
                value="",
                label=words,
                elem_id=f"list-axis-{name}",
                min_width=170,
                scale=1,
                allow_custom_value=True,
            )
        )

    return make


def values_of(name: str) -> Make:
    def make(studio: Studio) -> Any:
        hint, words = label("lists.values_hint"), label("lists.values")
        return gr.Textbox(label=words, placeholder=hint, max_lines=1, elem_id=f"list-values-{name}", scale=3)

    return make


COMPONENTS: dict[str, Make] = {
    "mode": mode,
    "text": text,
    "format": choice("format", tuple(LIST_PARSERS)),
    "expand": choice("expand", EXPANSIONS),
    "prompt": prompt,
    **{f"axis_{name}": axis(name) for name in "xyz"},
    **{f"values_{name}": values_of(name) for name in "xyz"},
    "size": text_field("size", "lists.size_hint"),
    "count": number("count", 1),
    **{name: option(name) for name in OF_PICTURES},
    "name": text_field("name", "lists.name_hint", scale=2),
    **{
        name: text_field(name, f"common.{name}_hint", **({"scale": 3} if each.place == "address" else {}))
        for name, each in BATCH_OPTIONS.items()
    },
    "priority": number("priority", 0),
}
LIST_FIELDS = tuple(COMPONENTS)


@dataclass(frozen=True, slots=True)
class ListForm:
    """The form's values, by the arguments that they become. Empty text fields are left out."""

    grid: bool
    values: dict[str, Any]

    def texts(self, names: Sequence[str]) -> dict[str, str]:
        found = {name: str(self.values.get(name) or "").strip() for name in names}
        return {name: value for name, value in found.items() if value}

    @property
    def times(self) -> dict[str, str]:
        return self.texts(tuple(BATCH_OPTIONS))

    @property
    def batch(self) -> dict[str, Any]:
        priority = self.values.get("priority")
        return {"name": "", "priority": 0 if priority is None else priority} | self.texts(("name",))

    @property
    def list(self) -> tuple[str, dict[str, Any]]:
        """(text of the list, keyword arguments for the list service)."""
        count = self.values.get("count")
        settings = self.texts(("format", "expand", "size", *OF_PICTURES))
        return str(self.values.get("text") or ""), settings | {"count": 1 if count is None else count}

    @property
    def axes(self) -> tuple[str, dict[str, Any]]:
        """(prompt of the grid, keyword arguments for the grid service). Raises InvalidParams if the size is invalid."""
        settings: dict[str, Any] = dict(self.texts(OF_PICTURES))
        if size := self.texts(("size",)):
            settings["width"], settings["height"] = parse_size(size["size"])
        for name in "xyz":
            field, values = (str(self.values.get(f"{part}_{name}") or "").strip() for part in ("axis", "values"))
            settings[name] = f"{field}: {values}" if field or values else ""
        return str(self.values.get("prompt") or "").strip(), settings


def read(values: Sequence[Any]) -> ListForm:
    named = dict(zip(LIST_FIELDS, values, strict=True))
    return ListForm(named["mode"] == "grid", named)


def component(name: str, studio: Studio) -> Any:
    return COMPONENTS[name](studio)


def axes(words: Callable[[str], Any], loras: Sequence[str] = ()) -> list[Any]:
    """(label, value) of the choices for an axis."""
    named = [(words(f"lists.axis_{name}" if name in REPLACED else f"common.{name}"), name) for name in AXES]
    return [(words("lists.axis_none"), ""), *named, *((LORA + name, LORA + name) for name in loras)]


def once(studio: Studio) -> list[Any]:
    """Choices of ``DRAWN_ONCE`` for a page load, with models and LoRAs newer than the server's start."""
    loras = [each.name for each in studio.library.adapters()["loras"] if each.ready]
    own = (say("lists.own_model"), "")
    files = (gr.Dropdown(choices_of(OPTIONS[name], studio, say)) for name in LIST_FILE_FIELDS)
    return [
        gr.Dropdown([own, *model_choices(studio.models())]),
        *files,
        *(gr.Dropdown(axes(say, loras)) for _ in "xyz"),
    ]


def at(place: str) -> list[str]:
    """Names of the options at a place of the form; the places are those of Create."""
    return [name for name in OF_PICTURES if OPTIONS[name].place == place]


def rows_for_experts() -> list[list[str]]:
    """Rows of options at places other than the common ones."""
    places = dict.fromkeys(OPTIONS[name].place for name in OF_PICTURES)
    return [at(place) for place in places if place not in ("model", "numbers", "seed", "negative")]


def times_at(place: str) -> list[str]:
    return [name for name, each in BATCH_OPTIONS.items() if each.place == place]


#: The fields that `once` updates.
DRAWN_ONCE = ("model", *LIST_FILE_FIELDS, "axis_x", "axis_y", "axis_z")
