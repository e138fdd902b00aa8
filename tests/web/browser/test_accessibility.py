"""What a screen reader and a keyboard need in every view: names, one main heading order, no doubled ids."""

from typing import Any

import pytest

from tests.web.browser.page_actions import make_picture, open_view
from tests.web.conftest import Site

pytestmark = pytest.mark.browser

#: Faults of the visible page by rule, as axe-core names the rules.
FAULTS = """() => {
  const seen = (each) => each.offsetParent !== null && getComputedStyle(each).visibility !== "hidden";
  const ids = (each) => (each.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
  const nameOf = (each) => (each.getAttribute("aria-label") ?? "").trim()
    || ids(each).map((id) => document.getElementById(id)?.textContent ?? "").join("").trim()
    || [...(each.labels ?? [])].map((label) => label.textContent).join("").trim()
    || (each.matches("button, a, summary, [role=option], [role=tab]") ? each.textContent.trim() : "")
    || [...each.querySelectorAll("img")].map((img) => img.alt).join("").trim() || each.title || each.placeholder || "";
  const tell = (each) => each.outerHTML.slice(0, 140);
  const found = [];
  for (const each of document.querySelectorAll("button, a[href], summary, input:not([type=hidden]), select, textarea"))
    if (seen(each) && !nameOf(each)) found.push(`name: ${tell(each)}`);
  for (const each of document.querySelectorAll("img"))
    if (seen(each) && !each.hasAttribute("alt")) found.push(`image-alt: ${tell(each)}`);
  for (const each of document.querySelectorAll("[role=progressbar], [role=meter], [role=dialog], nav, [role=toolbar]"))
    if (seen(each) && !nameOf(each)) found.push(`name: ${tell(each)}`);
  for (const each of document.querySelectorAll("button button, a button, button a, a a"))
    found.push(`nested-interactive: ${tell(each)}`);
  const all = [...document.querySelectorAll(".live [id], #bar [id], #drawer [id]")].map(({ id }) => id);
  for (const id of new Set(all)) if (all.filter((each) => each === id).length > 1) found.push(`duplicate-id: ${id}`);
  for (const each of document.querySelectorAll("[aria-labelledby]"))
    if (ids(each).some((id) => !document.getElementById(id))) found.push(`aria-valid-attr-value: ${tell(each)}`);
  for (const each of document.querySelectorAll("[tabindex]"))
    if (each.tabIndex > 0) found.push(`tabindex: ${tell(each)}`);
  return found;
}"""


#: What is there once a view is drawn.
DRAWN = {
    "gallery": "#gallery .tile",
    "queue": "#queue .line",
    "lists": "#list-maker textarea",
    "models": "#models .model",
    "settings": "#settings .row",
}


def test_everything_that_can_be_pressed_has_a_name_in_every_view(people: Any, site: Site) -> None:
    image = make_picture(site, "a red apple")
    page = people().open()
    faults = {"create": page.evaluate(FAULTS)}
    for view, drawn in DRAWN.items():
        open_view(page, view)
        page.wait_for_selector(drawn)
        faults[view] = page.evaluate(FAULTS)
    page.keyboard.press("q")
    faults["drawer"] = page.evaluate(FAULTS)
    page.goto(f"{site.url}/ui/picture/{image}")
    page.wait_for_selector(f"[data-picture='{image}']")
    faults["viewer"] = page.evaluate(FAULTS)
    page.keyboard.press("Escape")
    page.locator("[data-picture]").wait_for(state="detached")
    page.keyboard.press("?")
    page.locator("[role=dialog]").wait_for()
    faults["keys"] = page.evaluate(FAULTS)
    assert {view: each for view, each in faults.items() if each} == {}
