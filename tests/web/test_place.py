"""Where in the gallery somebody is."""

import pytest

from diffusion_local.web.ui.place import MOST_PAGES, Place


def test_a_place_is_written_and_read() -> None:
    place = Place().narrowed("model", "a&b=c").narrowed("starred", "1").older("I1").older("I2")
    assert Place.read(place.written()) == place
    assert place.asked() == {"model": "a&b=c", "starred": True}
    assert place.before == "I2"
    assert place.newer().newer().newer().before is None


def test_another_filter_begins_at_its_first_page() -> None:
    place = Place().narrowed("board", "B").older("I1")
    assert place.narrowed("shape", "square").cursors == ()
    assert place.narrowed("board", "") == Place()


@pytest.mark.parametrize("written", [None, 7, "", "colour=red&search=x", "&&&=", "at="])
def test_what_a_browser_sends_is_not_trusted(written: object) -> None:
    assert Place.read(written) == Place()


def test_the_way_back_is_bounded() -> None:
    place = Place()
    for number in range(MOST_PAGES + 5):
        place = place.older(str(number))
    assert len(place.cursors) == MOST_PAGES
