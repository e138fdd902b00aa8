"""Gallery: pages of thumbnails, a search, and the panel of one picture."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from diffusion_local.domain import Snapshot
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view_gallery
from diffusion_local.web.ui.live import QUIET, hidden, live
from diffusion_local.web.ui.view_gallery import PAGE
from diffusion_local.web.ui.words import label

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime, cursors: Any, search: Any, starred: Any) -> str:
    """The page after the last of the ``cursors``."""
    cursors, search = (each if isinstance(each, str) else "" for each in (cursors, search))
    before = cursors.split()[-1] if cursors.split() else None
    found = studio.gallery(PAGE + 1, before, search, bool(starred))
    filtered = bool(search.strip() or starred)
    total = 0 if filtered else studio.gallery_count()
    return view_gallery.gallery(found[:PAGE], total, before is None, len(found) > PAGE, filtered)


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GalleryTab:
    search: Any
    starred: Any
    cursors: Any
    drawn: Any

    @property
    def asked(self) -> list[Any]:
        return [self.cursors, self.search, self.starred]


def layout(studio: Studio) -> GalleryTab:
    with gr.Row(elem_id="gallery-bar", equal_height=True):
        search = gr.Textbox(
            placeholder=label("gallery.search_hint"),
            show_label=False,
            label=label("gallery.search"),
            container=False,
            scale=4,
            elem_id="search",
        )
        starred = gr.Checkbox(
            label=label("gallery.starred_only"), container=False, scale=0, min_width=140, elem_id="starred"
        )
    return GalleryTab(search, starred, hidden(elem_id="cursors"), live("gallery"))


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: GalleryTab) -> None:
    """Another search begins at its first page."""
    for source in (tab.search, tab.starred):
        source.input(None, None, tab.cursors, js="() => ''", **QUIET)
