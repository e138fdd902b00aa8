"""The groups of settings on Create: their fields, and the mark of a closed group in which something is set."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from diffusion_local.options.table import OPTIONS
from diffusion_local.web.ui import form
from diffusion_local.web.ui.live import QUIET

#: Fields of the groups with a fixed place in the layout; dock.js remembers which groups are open.
FIELDS_OF_GROUP = {
    "sampling": ("steps", "guidance", "sampler", "schedule"),
    "files": ("vae", "clip_skip", "rung"),
    "variation": ("variation_seed", "variation_strength"),
}
#: Places of options that the layout names; see `option_groups` for the others.
LAYOUT_PLACES = ("prompt", "negative", "model", "numbers", "seed", "source", "source-settings")


def option_groups() -> list[str]:
    """Places of options that the layout does not name; each becomes a group with the title ``create.group_NAME``."""
    places = dict.fromkeys(option.place for option in OPTIONS.values())
    return [each for each in places if each not in LAYOUT_PLACES and not each.startswith("expert.")]


def marked_groups() -> dict[str, tuple[str, ...]]:
    """Fields by group, of groups that are closed at first and affect every picture once something is set in them."""
    lists = {each: (each,) for each in ("styles", "loras", "controls")}
    options = {each: tuple(form.at(each)) for each in option_groups() if each != "inpaint"}  # that needs a mask
    return lists | options | {"words": ("expand",), "variation": FIELDS_OF_GROUP["variation"]}


def mark_groups(field: Callable[[str], Any]) -> None:
    """Mark the groups in the browser whenever one of their fields changes. ``field``: a component by its name."""
    marked = [(group, field(name)) for group, names in marked_groups().items() for name in names]
    parts = [part for _, part in marked]
    initial = json.dumps([(group, part.value) for group, part in marked])
    mark = f"(...values) => diffusionLocalDock.mark({initial}, values)"
    gr.on([each.change for each in parts], None, parts, None, js=mark, trigger_mode="multiple", **QUIET)
