"""The form of the Lists tab: one table from what may be said of a list or a grid to components, in one order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusion_local.domain import PRIORITIES
from diffusion_local.lists.fields import EXPANSIONS, parse_size
from diffusion_local.lists.formats import FORMATS
from diffusion_local.studio import Studio
from diffusion_local.web.ui.form import model_choices
from diffusion_local.web.ui.words import label, say

#: What an axis of a grid may be; LoRAs of this machine come behind them.
AXES = ("prompt", "negative", "seed", "steps", "guidance", "size", "sampler", "schedule", "model", "clip_skip")
REPLACED = ("prompt", "negative")
LORA = "lora "
Make = Callable[[Studio], Any]


def line(name: str, hint: str = "", **more: Any) -> Make:
    """Text, not gr.Number: nothing is what the model has."""

    def make(studio: Studio) -> Any:
        placeholder = label(hint) if hint else None
        said = label(f"common.{name}")
        return gr.Textbox(
            label=said, placeholder=placeholder, max_lines=1, elem_id=f"list-{name}", min_width=130, **more
        )

    return make


def choice(name: str, values: Sequence[str]) -> Make:
    def make(studio: Studio) -> Any:
        choices: list[Any] = [(label(f"lists.{name}_{each}"), each) for each in values]
        said = label(f"common.{name}")
        return gr.Dropdown(
            choices, value=values[0], label=said, filterable=False, elem_id=f"list-{name}", min_width=150
        )

    return make


def number(name: str, value: int, least: int, most: int) -> Make:
    def make(studio: Studio) -> Any:
        said = label(f"common.{name}")
        return gr.Number(
            value, label=said, precision=0, minimum=least, maximum=most, elem_id=f"list-{name}", min_width=90
        )

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
    hint, said = label("lists.grid_hint"), label("common.prompt")
    return gr.Textbox(label=said, placeholder=hint, lines=2, max_lines=8, elem_id="list-prompt")


def model(studio: Studio) -> Any:
    choices: list[Any] = [(label("lists.own_model"), ""), *model_choices(studio.models())]
    return gr.Dropdown(
        choices, value="", label=label("common.model"), filterable=False, elem_id="list-model", min_width=150
    )


def axis(name: str) -> Make:
    def make(studio: Studio) -> Any:
        said = label(f"common.{name}")
        # any other field may be typed
        return gr.Dropdown(
            axes(label),
            value="",
            label=said,
            elem_id=f"list-axis-{name}",
            min_width=170,
            scale=1,
            allow_custom_value=True,
        )

    return make


def values_of(name: str) -> Make:
    def make(studio: Studio) -> Any:
        hint, said = label("lists.values_hint"), label("lists.values")
        return gr.Textbox(label=said, placeholder=hint, max_lines=1, elem_id=f"list-values-{name}", scale=3)

    return make


FIELDS: dict[str, Make] = {
    "mode": mode,
    "text": text,
    "format": choice("format", tuple(FORMATS)),
    "expand": choice("expand", EXPANSIONS),
    "prompt": prompt,
    **{f"axis_{name}": axis(name) for name in "xyz"},
    **{f"values_{name}": values_of(name) for name in "xyz"},
    "model": model,
    "size": line("size", "lists.size_hint"),
    "steps": line("steps", "lists.own"),
    "count": number("count", 1, 1, 10_000),
    "guidance": line("guidance", "lists.own"),
    "seed": line("seed", "common.seed_hint"),
    "negative": line("negative", "common.negative_hint", scale=3),
    "name": line("name", "lists.name_hint", scale=2),
    "start_at": line("start_at", "lists.start_hint"),
    "window": line("window", "lists.window_hint"),
    "finish_by": line("finish_by", "lists.finish_hint"),
    "webhook": line("webhook", "lists.webhook_hint", scale=3),
    "priority": number("priority", 0, *PRIORITIES),
}
NAMES = tuple(FIELDS)
OF_PICTURES = ("model", "steps", "guidance", "seed", "negative")
OF_TIME = ("start_at", "window", "finish_by", "webhook")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form says: of each picture, of the batch, and of its times. What is empty is absent."""

    grid: bool
    given: dict[str, Any]

    def texts(self, names: Sequence[str]) -> dict[str, str]:
        found = {name: str(self.given.get(name) or "").strip() for name in names}
        return {name: value for name, value in found.items() if value}

    @property
    def times(self) -> dict[str, str]:
        return self.texts(OF_TIME)

    @property
    def batch(self) -> dict[str, Any]:
        priority = self.given.get("priority")
        return {"name": "", "priority": 0 if priority is None else priority} | self.texts(("name",))

    @property
    def list(self) -> tuple[str, dict[str, Any]]:
        """(the list, how it is to be read)."""
        count = self.given.get("count")
        settings = self.texts(("format", "expand", "size", *OF_PICTURES))
        return str(self.given.get("text") or ""), settings | {"count": 1 if count is None else count}

    @property
    def axes(self) -> tuple[str, dict[str, Any]]:
        """(a grid's prompt, its axes and settings). Raises InvalidParams."""
        settings: dict[str, Any] = dict(self.texts(OF_PICTURES))
        if size := self.texts(("size",)):
            settings["width"], settings["height"] = parse_size(size["size"])
        for name in "xyz":
            field, values = (str(self.given.get(f"{part}_{name}") or "").strip() for part in ("axis", "values"))
            settings[name] = f"{field}: {values}" if field or values else ""
        return str(self.given.get("prompt") or "").strip(), settings


def read(values: Sequence[Any]) -> Asked:
    given = dict(zip(NAMES, values, strict=True))
    return Asked(given["mode"] == "grid", given)


def component(name: str, studio: Studio) -> Any:
    return FIELDS[name](studio)


def axes(words: Callable[[str], Any], loras: Sequence[str] = ()) -> list[Any]:
    """What a dropdown of an axis offers."""
    named = [(words(f"lists.axis_{name}" if name in REPLACED else f"common.{name}"), name) for name in AXES]
    return [(words("lists.axis_none"), ""), *named, *((LORA + name, LORA + name) for name in loras)]


def once(studio: Studio) -> list[Any]:
    """A new page knows models and LoRAs that came after the server's start."""
    loras = [each.name for each in studio.library.adapters()["loras"] if each.ready]
    own = (say("lists.own_model"), "")
    return [gr.Dropdown([own, *model_choices(studio.models())]), *(gr.Dropdown(axes(say, loras)) for _ in "xyz")]


#: What `once` changes.
DRAWN_ONCE = ("model", "axis_x", "axis_y", "axis_z")
