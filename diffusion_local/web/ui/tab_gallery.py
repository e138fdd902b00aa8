"""The Gallery tab: boards, filters, and pictures. Drawn by the server; ``gallery.js`` handles selection."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.domain import Snapshot
from diffusion_local.errors import InvalidParams, NotFound, UserError
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.studio import Studio
from diffusion_local.web.ui import view, view_gallery
from diffusion_local.web.ui.live import hidden, live
from diffusion_local.web.ui.page_urls import GalleryState
from diffusion_local.web.ui.view_gallery import GalleryPage

# -- handlers -------------------------------------------------------------------------------------------------------


def draw(studio: Studio, snapshot: Snapshot, now: datetime, query: Any) -> str:
    place = GalleryState.parse(query)
    return view_gallery.gallery(
        place,
        pictures_at(studio, place),
        studio.boards.all(),
        studio.pictures.models(),
        studio.pictures.owners(),
        now,
        studio.gallery_count(),
        studio.preferences.settings.keep_trash_days,
    )


def pictures_at(studio: Studio, place: GalleryState) -> GalleryPage:
    """The pictures at this position. Those newer than its ``top`` are counted but not shown, so that the page does not
    shift.
    """
    refused = ""
    try:
        GalleryFilter.parse(place.filter_arguments())
    except InvalidParams as error:
        refused, place = view.problem(error), place.without("search", error.field)
    if place.get("board") and not exists(studio, place.get("board")):
        return GalleryPage([], missing=True)
    asked = place.filter_arguments()
    try:
        images = studio.pictures.page(place.show + 1, place.at or None, **asked)
    except UserError:  # the picture at this position was deleted
        images = studio.pictures.page(place.show + 1, **asked)
    fresh = 0
    if place.top and not place.at:
        fresh = next((number for number, each in enumerate(images) if each.id == place.top), 0)
    if fresh:
        images = [images[fresh], *studio.pictures.page(place.show, place.top, **asked)]
    shown = images[: place.show]
    repeated = {} if place.get("like") else studio.pictures.repeated(shown)
    matches = None
    if place.without("sort").filters and not place.get("board"):
        matches = studio.pictures.count_matches(view_gallery.MOST_COUNTED + 1, **asked)
    return GalleryPage(shown, len(images) > place.show, fresh, repeated, refused=refused, matches=matches)


def exists(studio: Studio, board_id: str) -> bool:
    try:
        return bool(studio.boards.get(board_id))
    except NotFound:
        return False


# -- layout ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GalleryTab:
    place: Any
    drawn: Any

    @property
    def poll_inputs(self) -> list[Any]:
        return [self.place]


def layout(studio: Studio) -> GalleryTab:
    return GalleryTab(hidden(elem_id="place"), live("gallery"))
