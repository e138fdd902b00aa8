"""What holds for the whole page in a browser: devices, tabs, colours."""

from typing import Any

import pytest

from tests.web.browser.conftest import PHONE
from tests.web.browser.page_actions import (
    batch_in_strip,
    generate,
    make_picture,
    open_settings,
    open_view,
    unique_prompt,
)
from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser


def test_a_reload_a_second_tab_and_another_device_show_the_truth(people: Any, site: Site) -> None:
    person = people()
    page = person.open()
    prompt = unique_prompt()
    generate(page, prompt)
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    page.reload()
    batch_in_strip(page, prompt).locator(".shot.done").wait_for()
    batch_in_strip(person.open(), prompt).locator(".shot.done").wait_for()

    other = people(viewport=PHONE).open()
    assert other.locator(".batch").count() == 0  # not its own press
    other.locator(f".shot img[alt='{prompt}']").wait_for()  # but what there is
    open_view(other, "gallery")
    other.locator(f".tile img[alt='{prompt}']").wait_for()
    open_view(other, "queue")
    other.locator("#queue li.line.done", has_text=prompt).wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_seventh_tab_loads(people: Any) -> None:
    """gr.State would hold a connection open for each tab, and a browser has six."""
    person = people()
    tabs = [person.open() for _ in range(7)]
    prompt = unique_prompt()
    generate(tabs[-1], prompt)
    batch_in_strip(tabs[-1], prompt).locator(".shot.done").wait_for()


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_whoever_was_signed_out_elsewhere_is_sent_to_the_sign_in(people: Any) -> None:
    person = people()
    page = person.open()
    page.evaluate("window.before = true")
    page.route("**/look", lambda route: route.fulfill(status=401, body="{}"), times=1)
    page.wait_for_function("!window.before && document.querySelector('#now .now')")  # "/" leads to the sign-in then
    person.complaints[:] = [each for each in person.complaints if "401" not in each]


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_light_and_dark_have_readable_words(people: Any) -> None:
    for scheme in ("light", "dark"):
        page = people(color_scheme=scheme).open()
        page.locator(".caption .meta, .welcome").first.wait_for()
        assert page.evaluate(CONTRAST) >= 4.5, scheme


#: Contrast (WCAG) of the quiet text of the invitation against what is behind it.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = rgb(colour).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = document.querySelector(".caption .meta, .welcome p");
  let behind = words;
  while (behind && (rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
  const both = [getComputedStyle(words).color, getComputedStyle(behind ?? document.body).backgroundColor].map(light);
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""


#: Elements that stand within a frame but reach over its edges, or over each other.
CROWDED = """(frame) => {
  const all = [...document.querySelectorAll(frame + " > *")].filter((each) => each.offsetParent);
  const boxes = all.map((each) => each.getBoundingClientRect());
  const outer = document.querySelector(frame).getBoundingClientRect();
  return all.filter((each, at) => boxes[at].right > outer.right + 1 || boxes[at].bottom > outer.bottom + 1
    || boxes.some((box, other) => other > at && box.left < boxes[at].right - 1)).map((each) => each.id);
}"""

#: Buttons and pictures of a frame that are painted outside it.
OUTSIDE = """(frame) => {
  const { left, top, right, bottom } = document.querySelector(frame).getBoundingClientRect();
  const all = [...document.querySelectorAll(`${frame} :is(button, img, .dot)`)].filter((each) => each.offsetParent);
  return all.filter((each) => {
    const box = each.getBoundingClientRect();
    return box.left < left || box.top < top || box.right > right || box.bottom > bottom;
  }).map((each) => each.outerHTML.slice(0, 160));
}"""

#: How many pixels of an element's focus ring its ancestors cut off.
CLIPPED = """(selector) => {
  const element = document.querySelector(selector);
  const { left, top, right, bottom } = element.getBoundingClientRect();
  let cut = 0;
  for (let each = element.parentElement; each; each = each.parentElement) {
    if (getComputedStyle(each).overflow === "visible") continue;
    const box = each.getBoundingClientRect();
    cut = Math.max(cut, box.left + 3 - left, box.top + 3 - top, right + 3 - box.right, bottom + 3 - box.bottom);
  }
  return cut;
}"""


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_arrow_keys_walk_the_views_and_the_header_holds_at_every_width(people: Any) -> None:
    page = people().open()
    page.focus("#views [data-view=create]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.view") == "gallery"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.view") == "settings"
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/settings")
    open_view(page, "lists")
    page.locator("#list-mode").wait_for()
    for width in (280, 390, 700, 759, 760, 900, 1001, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(CROWDED, "#bar") == [], width
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        assert page.evaluate(CLIPPED, "#list-mode label:nth-of-type(2)") <= 0, width


@pytest.mark.slow  # a detail: the walk through this view is in the first tier
def test_a_phone_reaches_every_view_and_back_closes_its_sheet(people: Any) -> None:
    page = people(viewport=PHONE).open()
    page.click("#tabbar summary")
    assert page.evaluate(OUTSIDE_SCREEN, "#tabbar .items") is False
    page.click("#tabbar [data-view=settings]")
    page.wait_for_url("**/ui/settings")
    page.click("#tabbar [data-view=create]")

    open_settings(page)
    page.go_back()
    page.wait_for_selector("html:not(.with-sheet)")
    assert page.url.endswith("/ui/create")
    open_settings(page)
    page.click("#tabbar [data-view=gallery]")  # the sheet leaves no entry in the history
    page.wait_for_url("**/ui/gallery")
    page.go_back()
    page.wait_for_url("**/ui/create")
    page.go_back()
    page.wait_for_url("**/ui/settings")


#: Whether an element is painted, wholly or in part, where nobody can scroll to.
OUTSIDE_SCREEN = """(selector) => {
  const { left, top, right, bottom } = document.querySelector(selector).getBoundingClientRect();
  return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight;
}"""


@pytest.mark.slow
def test_nothing_in_the_controls_scrolls_sideways(people: Any) -> None:
    page = people().open()
    wider = """() => [document.getElementById("dock"), ...document.querySelectorAll("#dock *")]
      .filter((each) => each.checkVisibility() && ["auto", "scroll"].includes(getComputedStyle(each).overflowX))
      .filter((each) => each.scrollWidth > each.clientWidth && each.matches(":not(input, textarea)"))
      .map((each) => each.id || each.className)"""
    page.wait_for_selector("#group-loras > button")
    assert page.evaluate(wider) == []


#: Collects layout shifts that no input explains, each with the elements that moved.
WATCH_SHIFTS = """() => {
  const box = ({ x, y, width, height }) => [x, y, width, height].map(Math.round).join(" ");
  const name = (node) => (node?.nodeType === Node.ELEMENT_NODE ? node : node?.parentElement)?.outerHTML.slice(0, 160);
  window.shifts = [];
  window.shiftObserver = new PerformanceObserver((list) => {
    for (const entry of list.getEntries())
      if (!entry.hadRecentInput)
        for (const { node, previousRect: from, currentRect: to } of entry.sources)
          if (box(from) !== box(to)) // text may be set anew at fractions of a pixel
            window.shifts.push(`${name(node)}: ${box(from)} -> ${box(to)}`);
  });
  window.shiftObserver.observe({ type: "layout-shift" });
}"""


@pytest.mark.parametrize("submitter", ["the page", pytest.param("another device", marks=pytest.mark.slow)])
def test_nothing_moves_while_jobs_run_and_when_they_end(page: Any, site: Site, submitter: str) -> None:
    make_picture(site, unique_prompt())
    page.wait_for_function("document.querySelector('.shot')")
    prompt = unique_prompt("five of them [slow:0.02]")
    page.evaluate(WATCH_SHIFTS)
    if submitter == "the page":
        open_settings(page)
        page.fill("#count input", "5")
        generate(page, prompt)
        page.mouse.move(5, 5)
    else:
        site.services.studio.submit(prompt, width=128, height=128, steps=12, count=5)
    page.wait_for_function("document.querySelector('#now .now').dataset.work > 0")
    page.wait_for_function("document.querySelector('#now .now').dataset.work === '0'")
    page.wait_for_function("document.querySelector('.strip').getAnimations({ subtree: true }).length === 0")
    assert page.locator(".shot.done").count() > 5
    assert page.evaluate(OUTSIDE, "#bar") == []
    assert page.evaluate("window.shifts") == []
