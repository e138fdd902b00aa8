"""Where in the gallery somebody is."""

import pytest

from diffusion_local.web.ui.page_urls import MAX_SHOWN, SHOW, GalleryState


def test_a_place_is_written_and_read() -> None:
    place = GalleryState({"model": "a&b=c", "starred": "1", "search": "boat"}, at="I2", top="I1", show=200)
    assert GalleryState.parse(place.query_string()) == place
    assert place.filter_arguments() == {"model": "a&b=c", "starred": True, "search": "boat"}


def test_the_address_has_the_filters_alone() -> None:
    place = GalleryState({"model": "a&b"}, at="I2", top="I1", show=200)
    assert place.address() == "/ui/gallery?model=a%26b"


def test_another_filter_begins_at_the_newest() -> None:
    place = GalleryState({"board": "B"}, at="I1", top="I2", show=300)
    assert place.narrowed("shape", "square") == GalleryState({"board": "B", "shape": "square"})
    assert place.narrowed("board", "") == GalleryState()


@pytest.mark.parametrize("written", [None, 7, "", "colour=red", "&&&=", "at=", "show=x", "search=+", f"show={SHOW}"])
def test_what_a_browser_sends_is_not_trusted(written: object) -> None:
    assert GalleryState.parse(written) == GalleryState()


@pytest.mark.parametrize(
    ("sent", "shown"), [("1", 48), ("99999999", MAX_SHOWN), ("200", 200), ("-5", SHOW), ("²", SHOW)]
)
def test_what_is_drawn_at_once_is_bounded(sent: str, shown: int) -> None:
    assert GalleryState.parse(f"show={sent}").show == shown
