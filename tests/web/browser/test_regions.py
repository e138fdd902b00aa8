"""Regions with prompts of their own, drawn as boxes in a browser: by mouse, by keys, by touch, and from the text."""

import os
from typing import Any

import pytest

from diffusion_local.options.types import Region
from tests.web.browser.conftest import PHONE
from tests.web.browser.page_actions import fits_width, generate, open_settings, unique_prompt
from tests.web.conftest import Site

pytestmark = pytest.mark.browser

FIELD = "#regions textarea"
#: Pointer events of a finger, from one point of the board to another, as shares of it.
SWIPE = """([from, to]) => {
  const board = document.querySelector(".region-list .board");
  board.setPointerCapture = () => {};  // no pointer is down in truth
  const { left, top, width, height } = board.getBoundingClientRect();
  const fire = (type, [x, y]) => {
    const at = { clientX: left + x * width, clientY: top + y * height };
    const target = type === "pointerdown" ? document.elementFromPoint(at.clientX, at.clientY) : board;
    const finger = { ...at, pointerId: 7, pointerType: "touch", bubbles: true, cancelable: true };
    target.dispatchEvent(new PointerEvent(type, finger));
  };
  fire("pointerdown", from);
  fire("pointermove", [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2]);
  fire("pointermove", to);
  fire("pointerup", to);
}"""


def open_board(page: Any) -> Any:
    open_settings(page)
    page.locator("#group-regions > button").click()
    board = page.locator(".region-list .board")
    board.wait_for()
    board.scroll_into_view_if_needed()
    return board


def drag(page: Any, board: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse, between two points of the board, as shares of it."""
    board.scroll_into_view_if_needed()  # the focus of the new prompt may have moved it
    area = board.bounding_box()
    first, last = ((area["x"] + x * area["width"], area["y"] + y * area["height"]) for x, y in (start, end))
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*last, steps=4)
    page.mouse.up()


def regions(page: Any) -> list[Region]:
    found = [Region.read(each) for each in Region.split(page.input_value(FIELD))]
    return [Region(**each | {key: float(each[key]) for key in each if key != "prompt"}) for each in found]


def near(region: Region, x: float, y: float, width: float, height: float) -> bool:
    pairs = zip((region.x, region.y, region.width, region.height), (x, y, width, height), strict=True)
    return all(abs(one - other) < 0.03 for one, other in pairs)


def test_a_box_is_drawn_moved_resized_and_removed(page: Any, site: Site) -> None:
    board = open_board(page)
    drag(page, board, (0.1, 0.1), (0.5, 0.6))
    page.keyboard.type("a red fox, 3:2, 50% fur")  # the prompt of the new box has the focus
    page.keyboard.press("Tab")
    [fox] = regions(page)
    assert fox.prompt == "a red fox, 3:2, 50% fur"
    assert near(fox, 0.1, 0.1, 0.4, 0.5)
    drag(page, board, (0.3, 0.3), (0.5, 0.4))
    assert near(regions(page)[0], 0.3, 0.2, 0.4, 0.5)
    drag(page, board, (0.7, 0.7), (0.95, 0.9))  # a corner
    assert near(regions(page)[0], 0.3, 0.2, 0.65, 0.7)
    drag(page, board, (0.6, 0.5), (0.0, 0.0))  # no further than the edge
    assert near(regions(page)[0], 0.0, 0.0, 0.65, 0.7)
    drag(page, board, (0.8, 0.1), (0.99, 0.5))
    page.keyboard.type("a boat")
    page.keyboard.press("Tab")
    assert [each.prompt for each in regions(page)] == [fox.prompt, "a boat"]
    assert fits_width(page)
    if shot := os.environ.get("SHOT_OF_REGIONS"):
        board.screenshot(path=shot)
        page.screenshot(path=shot + ".page.png")
    prompt = unique_prompt("with regions")
    generate(page, prompt)
    page.locator(f".batch[data-prompt='{prompt}']").wait_for()
    made = next(job.params for job in site.services.studio.jobs() if job.params.prompt == prompt)
    assert [each.prompt for each in made.regions] == [fox.prompt, "a boat"]
    assert near(made.regions[0], 0.0, 0.0, 0.65, 0.7)
    open_settings(page)
    page.locator(".region-list li").nth(0).locator("[data-region=remove]").click()
    assert [each.prompt for each in regions(page)] == ["a boat"]


@pytest.mark.slow
def test_regions_are_made_by_keys_alone(page: Any) -> None:
    open_board(page)
    page.locator("[data-region=add]").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("a lamp")
    page.keyboard.press("Tab")
    box = page.locator(".region-list .box")
    assert "a lamp" in box.get_attribute("aria-label")
    box.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert near(regions(page)[0], 0.29, 0.27, 0.48, 0.52)
    weight = page.locator(".region-list [data-part=weight]")
    weight.fill("1")
    weight.blur()
    width = page.locator(".region-list [data-part=width]")
    width.fill("500")  # no wider than the picture
    width.blur()
    assert (regions(page)[0].weight, regions(page)[0].width, regions(page)[0].x) == (1.0, 1.0, 0.0)
    box.focus()
    page.keyboard.press("Delete")
    assert page.input_value(FIELD) == ""
    assert page.evaluate("document.activeElement.dataset.region") == "add"


@pytest.mark.slow
def test_the_text_and_the_boxes_show_the_same(page: Any) -> None:
    open_board(page)
    page.fill(FIELD, "a red fox, sleeping:width=0.5, a blue car:x=0.5:weight=0.4")
    boxes = page.locator(".region-list .box")
    boxes.nth(1).wait_for()
    fox, car = (boxes.nth(at).get_attribute("aria-label") for at in (0, 1))
    assert fox == "1: a red fox, sleeping (0%, 0%, 50% × 100%)"
    assert car == "2: a blue car (50%, 0%, 50% × 100%)"
    assert page.locator(".region-list [data-part=weight]").nth(1).input_value() == "0.4"
    page.fill(FIELD, "")
    boxes.nth(0).wait_for(state="detached")
    page.locator("#group-regions > button:not([data-set])").wait_for()
    page.fill(FIELD, ", ".join(["a:x=0.1"] * 8))
    boxes.nth(7).wait_for()
    page.locator("#group-regions > button[data-set]").wait_for()
    assert page.locator("[data-region=add]").is_disabled()


@pytest.mark.slow  # a second browser window
def test_a_finger_draws_and_moves_a_box(people: Any) -> None:
    page = people(viewport=PHONE).open()
    open_board(page)
    page.evaluate(SWIPE, [[0.2, 0.2], [0.6, 0.6]])
    assert near(regions(page)[0], 0.2, 0.2, 0.4, 0.4)
    page.locator(".region-list .board").scroll_into_view_if_needed()  # the focus of the new prompt may have moved it
    page.evaluate(SWIPE, [[0.4, 0.4], [0.5, 0.5]])
    assert near(regions(page)[0], 0.3, 0.3, 0.4, 0.4)
    assert fits_width(page)
