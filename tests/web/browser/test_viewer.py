"""The viewer in a browser: zoom, keys, swipe, the address of a picture."""

from typing import Any

import pytest

from tests.web.browser.conftest import PHONE
from tests.web.browser.ways import a_prompt, batch, go, press, worked
from tests.web.conftest import Site

pytestmark = pytest.mark.browser


def scale(page: Any) -> float:
    return page.evaluate("new DOMMatrix(getComputedStyle(document.querySelector('.stage img')).transform).a")


def shown(page: Any, image: str) -> None:
    page.wait_for_selector(f"[data-picture='{image}']")


def test_keys_walk_zoom_star_and_close(people: Any, site: Site) -> None:
    older, newer = worked(site, a_prompt()), worked(site, a_prompt())
    page = people().open()
    go(page, "gallery")
    page.click(f".tile[data-key='{newer}'] a.open")
    shown(page, newer)
    assert page.evaluate("new URL(location).searchParams.get('picture')") == newer
    page.keyboard.press("ArrowRight")
    shown(page, older)
    page.keyboard.press("ArrowLeft")
    shown(page, newer)
    page.keyboard.press("+")
    assert scale(page) == 1.5
    page.keyboard.press("0")
    assert scale(page) == 1
    page.dblclick(".stage")
    assert scale(page) == 3
    page.mouse.wheel(0, 400)
    page.wait_for_function("!document.querySelector('.stage').style.length")
    assert scale(page) < 3
    page.keyboard.press("s")
    page.wait_for_selector("[data-do=unstar]")
    assert site.house.studio.image(newer).starred
    page.keyboard.press("i")
    assert page.locator(".side .prompt").is_hidden()
    page.keyboard.press("i")
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.wait_for_function("!location.search")


def test_a_link_opens_a_picture_and_back_closes_it(people: Any, site: Site) -> None:
    image = worked(site, a_prompt())
    person = people()
    page = person.open()
    page.goto(f"{site.url}/?picture={image}")
    shown(page, image)
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.wait_for_function("!location.search")
    go(page, "gallery")
    page.click(f".tile[data-key='{image}'] a.open")
    shown(page, image)
    page.go_back()
    page.locator("[data-picture]").wait_for(state="detached")
    page.goto(f"{site.url}/?picture=nonsense")
    page.wait_for_selector("#generate")
    assert page.locator("[data-picture]").count() == 0


def test_a_finger_swipes_from_picture_to_picture(people: Any, site: Site) -> None:
    older, newer = worked(site, a_prompt()), worked(site, a_prompt())
    page = people(viewport=PHONE, has_touch=True).open()
    go(page, "gallery")
    page.click(f".tile[data-key='{newer}'] a.open")
    shown(page, newer)
    page.mouse.move(300, 200)
    page.mouse.down()
    page.mouse.move(100, 205, steps=5)
    page.mouse.up()
    shown(page, older)


def test_more_of_a_picture_appears_on_create(people: Any, site: Site) -> None:
    page = people().open()
    prompt = a_prompt()
    press(page, prompt)
    batch(page, prompt).locator(".card.done a.open").click()
    page.wait_for_selector("[data-picture]")
    page.click("[role=dialog] [data-do=again_new]")
    page.locator(".toast", has_text="In the queue").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelectorAll('.batch .card.done').length === 2")
    seeds = {job.params.seed for job in site.house.studio.jobs() if job.params.prompt == prompt}
    assert len(seeds) == 2
