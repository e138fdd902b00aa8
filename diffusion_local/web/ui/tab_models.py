"""The Models tab: installed models, downloads, the curated list, and a field to add more."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from diffusion_local import serializers
from diffusion_local.domain import Snapshot
from diffusion_local.errors import UserError
from diffusion_local.hub.downloads import is_link
from diffusion_local.models.curated import REPO
from diffusion_local.models.service import FOLDERS
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_models
from diffusion_local.web.ui.effects import new_toast
from diffusion_local.web.ui.live import QUIET, bind, live
from diffusion_local.web.ui.words import label, say

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime) -> str:
    library = studio.library
    models = library.models()
    return view_models.library(
        models,
        library.samples(),
        library.fits(),
        library.plans(*models),
        library.downloads(),
        library.known(),
        library.largest(),
        library.adapters(),
        {(folder, name): serializers.model_preview_url(folder, name) for folder, name in library.previews()},
    )


def pulse(studio: Studio) -> str:
    """A text that changes with state outside the database's revision: downloaded bytes, and files in the folders."""
    library = studio.library
    loading = [(each.id, each.bytes_done) for each in library.downloads() if not each.final]
    there = [(model.id, model.problem) for model in library.models()]
    adapters = [(each.name, each.problem) for found in library.adapters().values() for each in found]
    return repr((loading, there, adapters, sorted(library.previews())))


def on_add(studio: Studio, what: Any, into: Any) -> list[Any]:
    """Add a hub id (optionally with the path of a file), a URL, a version on Civitai, or a local path.

    Returns (toast, the field's new text: emptied, or unchanged after an error).
    """
    source = what.strip() if isinstance(what, str) else ""
    try:
        return [new_toast(added(studio, source, into if into in FOLDERS else "models")), ""]
    except UserError as error:
        return [new_toast(view.problem(error), kind="warn"), gr.skip()]


def added(studio: Studio, source: str, into: str) -> str:
    """Download or register ``source``, and return the words of the toast. Raises UserError.

    URLs and versions on Civitai are downloaded. A path starts with ``/``, ``~``, ``.`` or a drive, contains a
    backslash, or exists without the form of a hub id; anything else is a hub id.
    """
    if is_link(source):
        return say("models.queued", name=studio.library.download(source, into=into).source)
    owner, _, rest = source.strip("/").partition("/")
    name, _, file = rest.partition("/")
    looks_local = source.startswith(("/", "~", ".")) or "\\" in source or source[1:2] == ":"
    if looks_local or (not REPO.fullmatch(f"{owner}/{name}") and Path(source).exists()):
        return say("models.added", names=", ".join(model.name for model in studio.library.add(source)))
    download = studio.library.download(f"{owner}/{name}" if name else source, file, into)
    return say("models.queued", name=download.source)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelsTab:
    what: Any
    into: Any
    add: Any
    drawn: Any

    @property
    def poll_inputs(self) -> list[Any]:
        return []


def layout(studio: Studio) -> ModelsTab:
    with gr.Row(elem_id="models-bar", equal_height=True):
        what = gr.Textbox(
            label=label("models.add_label"),
            placeholder=label("models.add_hint"),
            show_label=False,
            container=False,
            max_lines=1,
            scale=5,
            elem_id="model-source",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )
        into = gr.Dropdown(
            [(label(f"models.into_{folder}"), folder) for folder in FOLDERS],
            value="models",
            label=label("models.into"),
            show_label=False,
            container=False,
            filterable=False,
            scale=0,
            min_width=170,
            elem_id="model-kind",
        )
        add = gr.Button(label("models.add"), variant="primary", scale=0, min_width=100, elem_id="model-add")
    return ModelsTab(what, into, add, live("models"))


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: ModelsTab, studio: Studio, toast: Any) -> Any:
    """Connect the handlers. Returns the event of adding a model, for chaining."""
    return gr.on(
        [tab.add.click, tab.what.submit], bind(on_add, studio), [tab.what, tab.into], [toast, tab.what], **QUIET
    )
