"""The gallery in a browser: new pictures, search, stars, trash."""

from typing import Any

import pytest

from tests.web.browser.ways import a_prompt, go, worked
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_new_pictures_come_into_the_open_gallery_without_touching_the_others(people: Any, site: Site) -> None:
    page = people().open()
    first = worked(site, a_prompt())
    go(page, "gallery")
    shown = page.locator(f".tile[data-key='{first}'] img")
    shown.wait_for()
    shown.evaluate("(img) => { img.marked = true; }")
    second = worked(site, a_prompt())
    page.locator(f".tile[data-key='{second}']").wait_for()
    assert shown.evaluate("(img) => img.marked") is True  # the same element: nothing flickers


def test_search_star_trash_and_undo(people: Any, site: Site) -> None:
    image = worked(site, a_prompt("a very special boat"))
    worked(site, a_prompt("something else"))
    page = people().open()
    go(page, "gallery")
    page.fill("#search :is(input, textarea)", "special boat")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
    page.click(".tile a.open")
    page.locator("[role=dialog] [data-do=star]").click()
    page.locator("[role=dialog] [data-do=unstar]").wait_for()
    assert site.house.studio.image(image).starred
    page.locator("[role=dialog] >> text=Move to trash").click()
    page.locator(".invite", has_text="No picture fits").wait_for()
    page.locator(".toast >> text=Undo").click()
    page.locator(f".tile[data-key='{image}']").wait_for()
    page.fill("#search :is(input, textarea)", "")
    page.check("#starred input")
    page.wait_for_function("document.querySelectorAll('.tile').length === 1")
