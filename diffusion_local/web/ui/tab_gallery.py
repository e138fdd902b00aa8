"""Gallery: filters and boards, pages of thumbnails, and what is done with the ticked ones."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import gradio as gr

from diffusion_local.domain import Snapshot
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_gallery, view_gallery_bar
from diffusion_local.web.ui.live import QUIET, hidden, live
from diffusion_local.web.ui.place import Place
from diffusion_local.web.ui.view_gallery import PAGE
from diffusion_local.web.ui.words import label

FIRST_PAGE = "(place) => { const at = new URLSearchParams(place); at.delete('at'); return at.toString(); }"

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime, written: Any, search: Any) -> str:
    """The page of the gallery at this place."""
    place = Place.read(written)
    search, refused = search.strip() if isinstance(search, str) else "", ""
    try:
        GalleryFilter.parse({"search": search})
    except InvalidParams as error:
        search, refused = "", view.notice("warn", view.text(view.problem(error)))
    try:
        found = studio.pictures.page(PAGE + 1, place.before, search=search, **place.asked())
    except UserError:  # a place that is not there: everything
        place, found = Place(), studio.pictures.page(PAGE + 1, search=search)
    boards = studio.boards.all()
    bar = view_gallery_bar.bar(place, search, boards, studio.pictures.models(), studio.pictures.owners(), now)
    repeated = {} if place.get("like") else studio.pictures.repeated(found)
    total = studio.gallery_count() if not (search or place.filters) else 0
    return (
        refused
        + bar
        + view_gallery.gallery(found[:PAGE], total, place, len(found) > PAGE, bool(search or place.filters), repeated)
    )


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GalleryTab:
    search: Any
    place: Any
    drawn: Any

    @property
    def asked(self) -> list[Any]:
        return [self.place, self.search]


def layout(studio: Studio) -> GalleryTab:
    with gr.Row(elem_id="gallery-bar", equal_height=True):
        search = gr.Textbox(
            placeholder=label("gallery.search_hint"),
            show_label=False,
            label=label("gallery.search"),
            container=False,
            elem_id="search",
        )
    return GalleryTab(search, hidden(elem_id="place"), live("gallery"))


# -- wiring ---------------------------------------------------------------------------------------------------------


def wire(tab: GalleryTab) -> None:
    """Another search begins at its first page."""
    tab.search.input(None, tab.place, tab.place, js=FIRST_PAGE, **QUIET)
