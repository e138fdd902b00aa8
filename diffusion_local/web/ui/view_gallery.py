"""The gallery: boards, filters, pictures in justified rows, and the comparison of two pictures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zlib import crc32

from markupsafe import Markup

from diffusion_local import actor, serializers
from diffusion_local.domain import Image
from diffusion_local.gallery.boards import Board
from diffusion_local.gallery.images import SHAPE_FILTERS, SORTS
from diffusion_local.web.ui.page_urls import GalleryState
from diffusion_local.web.ui.templates import render, say
from diffusion_local.web.ui.view_picture import recipe_rows

#: Entries of the date filter: (phrase, first day, last day), in days before today; None: no last day.
SPANS = (("span_0", 0, None), ("yesterday", 1, 1), ("span_6", 6, None), ("span_29", 29, None))
ZIP = "images/zip"
MOST_COUNTED = 999  # matches of a filter; beyond, the page says that there are more


@dataclass(frozen=True, slots=True)
class GalleryPage:
    """The visible part of the gallery.

    ``more``: there are older pictures; ``fresh``: number of newer pictures since the page was opened; ``repeated``: how
    often each recipe was used; ``missing``: the board in the address does not exist; ``refused``: why a filter is
    invalid; ``matches``: how many pictures match the filters, up to one more than MOST_COUNTED; None: not counted.
    """

    images: Sequence[Image]
    more: bool = False
    fresh: int = 0
    repeated: Mapping[str, int] = field(default_factory=dict)
    missing: bool = False
    refused: str = ""
    matches: int | None = None


def day(now: datetime, back: int | None) -> str:
    return "" if back is None else (now - timedelta(days=back)).date().isoformat()


def gallery(
    place: GalleryState,
    shown: GalleryPage,
    boards: Sequence[Board],
    models: Sequence[str],
    owners: Sequence[str],
    now: datetime,
    total: int = 0,
    keep_days: int = 0,
) -> Markup:
    spans = [(day(now, first), day(now, last), say(f"gallery.{words}")) for words, first, last in SPANS]
    since, until = place.get("since"), place.get("until")
    chosen = next((words for first, last, words in spans if (first, last) == (since, until)), f"{since} – {until}")
    forms = [(name, say(f"gallery.{name}")) for name in SHAPE_FILTERS]
    named = {*owners, *([place.get("owner")] if place.get("owner") else [])}
    return render(
        "gallery.html",
        place=place,
        search=place.get("search"),
        boards=boards,
        boards_mark=f"{crc32(repr([(each.id, each.name) for each in boards]).encode()):x}",
        board=next((each for each in boards if each.id == place.get("board")), None),
        spans=spans,
        shape_choices=forms,
        sorts=SORTS,
        labels=dict(forms),
        chosen_span=chosen if since or until else "",
        models=[(name, name) for name in models],
        owners=[(name, name) for name in sorted(named)] if named - {actor.current().name} else [],
        images=shown.images,
        more=shown.more,
        fresh=shown.fresh,
        repeated=shown.repeated,
        missing=shown.missing,
        refused=shown.refused,
        matches=shown.matches,
        most_counted=MOST_COUNTED,
        nothing=nothing(place),
        total=total,
        keep_days=keep_days,
        zip=serializers.api_url(ZIP),
    )


def nothing(place: GalleryState) -> tuple[str, str]:
    """Why no picture is shown, as keys of two phrases: a title, and what to do about it."""
    filters = place.without("sort").filters
    if filters == {"trashed": "1"}:
        return "gallery.no_trash", ""
    if place.get("board"):
        return "gallery.no_board", "gallery.no_board_how"
    if filters:
        return "gallery.no_fit", "gallery.no_fit_how"
    return "gallery.empty", "gallery.empty_how"


def compared(first: Image, second: Image) -> Markup:
    """Two overlaid pictures with a slider between them, and a table of the settings that differ."""
    return render("compare.html", first=first, second=second, rows=differences(first, second))


def differences(first: Image, second: Image) -> list[tuple[str, str, str]]:
    left, right = (
        {say("gallery.prompt"): each.params.prompt} | dict(recipe_rows(each.params)) for each in (first, second)
    )
    return [
        (name, left.get(name, "–"), right.get(name, "–"))
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]
