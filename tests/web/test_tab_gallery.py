"""The gallery's tab keeps up with its table: every filter can be set on the page, every column is shown."""

import re
from dataclasses import fields, replace
from datetime import UTC, datetime
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from diffusion_local import serializers
from diffusion_local.domain import Image
from diffusion_local.gallery.boards import Board
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.web.ui import view_gallery, view_picture
from diffusion_local.web.ui.page_urls import GalleryState
from tests.support import params

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IMAGE = Image("I1", "J1", "2026/01/02/I1.png", params(), 128, 128, 4321, "2026-01-02T03:04:05.000Z", 2.5)
BOARD = Board("B1", "Boats", "", "2026")

#: Columns that the page leaves out, and that the JSON leaves out.
NOT_DRAWN = {"job_id"}
NOT_ANSWERED = {"owner"}


def drawn(image: Image) -> str:
    """The gallery with one picture, and the viewer with the same one."""
    shown = view_gallery.GalleryPage([image], repeated={image.id: 2})
    page = view_gallery.gallery(GalleryState(), shown, [BOARD], ["starter", "sdxl"], ["ann", "bob"], NOW, 1, 30)
    return page + view_picture.panel(image, view_picture.Related(1, "B1", [BOARD], [BOARD]))


def test_every_filter_of_the_gallery_can_be_set_on_its_page() -> None:
    html = drawn(IMAGE)
    links = [urlsplit(unescape(each)) for each in re.findall(r'href="([^"]*/ui/gallery[^"]*)"', html)]
    offered = {name for link in links for name, _ in parse_qsl(link.query)}
    offered |= {"search"} if "data-search" in html else set()
    assert {field.name for field in fields(GalleryFilter)} <= offered


@pytest.mark.parametrize(("matches", "words"), [(1, "1 match<"), (12, "12 matches<"), (1000, "More than 999 matches<")])
def test_a_filter_tells_how_many_match(matches: int, words: str) -> None:
    place = GalleryState().narrowed("search", "apple")
    shown = view_gallery.GalleryPage([IMAGE], matches=matches)
    assert words in view_gallery.gallery(place, shown, [], ["starter"], [], NOW, 2000)


def other(name: str) -> Any:
    return {
        "params": params(prompt="another prompt"),
        "created_at": "2025-12-24T00:00:00.000Z",
        "trashed_at": "2026-01-02T04:00:00.000Z",
        "key": "2026/01/02/I1.webp",
        "facts": {"flag": "black"},
        "seconds": 777.0,
        "starred": True,
    }.get(name, 98765 if isinstance(getattr(IMAGE, name), int) else "another")


@pytest.mark.parametrize("name", [field.name for field in fields(Image)])
def test_every_column_of_the_gallery_is_drawn_and_answered(name: str) -> None:
    changed = replace(IMAGE, **{name: other(name)})
    assert (drawn(changed) != drawn(IMAGE)) == (name not in NOT_DRAWN)
    assert (serializers.image(changed) != serializers.image(IMAGE)) == (name not in NOT_ANSWERED)


def test_yesterday_is_one_day_and_shown_as_chosen() -> None:
    link = 'href="/ui/gallery?since=2026-03-01&amp;until=2026-03-01"'
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    page = view_gallery.gallery(GalleryState(), view_gallery.GalleryPage([]), [], [], [], now)
    assert re.search(f"{re.escape(link)}>Yesterday<", page)
    chosen = GalleryState({"since": "2026-03-01", "until": "2026-03-01"})
    page = view_gallery.gallery(chosen, view_gallery.GalleryPage([]), [], [], [], now)
    assert re.search(f'{re.escape(link)} aria-current="true">Yesterday<', page)
    assert 'href="/ui/gallery">Any' in page
    assert "2026-02-27 – " in view_gallery.gallery(
        GalleryState({"since": "2026-02-27"}), view_gallery.GalleryPage([]), [], [], [], now
    )
