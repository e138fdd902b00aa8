"""What screenshots show of the page: each function brings a browser tab to one view, or back from it."""

import time
from collections.abc import Callable
from typing import Any

from screenshots import go

SETTLE = 0.9  # seconds: an answer of the page's timer, and an animation
PASSWORD = "correct horse battery"
LIST = "a red apple\na glass of water\na red apple --steps many\na {small|large} tree --count 2\n"


def tab(name: str) -> Callable[[Any], None]:
    def show(page: Any) -> None:
        go(page, name, SETTLE)
        page.evaluate("window.scrollTo(0, 0)")

    return show


def lower(name: str, selector: str) -> Callable[[Any], None]:
    """That tab, scrolled until the part is at the top."""

    def show(page: Any) -> None:
        tab(name)(page)
        page.evaluate("(at) => document.querySelector(at)?.scrollIntoView()", selector)

    return show


def clicking(name: str, *selectors: str) -> Callable[[Any], None]:
    def show(page: Any) -> None:
        tab(name)(page)
        for selector in selectors:
            page.locator(selector).first.click()
            time.sleep(0.5)

    return show


def pressing(*keys: str) -> Callable[[Any], None]:
    def act(page: Any) -> None:
        for key in keys:
            page.keyboard.press(key)

    return act


def reload(page: Any) -> None:
    page.reload()
    page.wait_for_selector("#now .now")


def wrong(page: Any) -> None:
    """A press with a mistake in it."""
    tab("create")(page)
    page.fill("#prompt textarea", "")
    page.click("#generate")
    page.wait_for_selector("#told .notice")


def from_picture(page: Any) -> None:
    viewer(page)
    page.locator("[data-picture] [data-do=to_img2img]").click()
    page.wait_for_selector("#source .begin", state="attached")
    sheet = page.locator("[data-sheet]")
    if sheet.is_visible():
        sheet.click()
    page.wait_for_selector("#source .begin", state="visible")
    page.evaluate("window.scrollTo(0, 0)")


def brush(page: Any) -> None:
    page.locator("#source .kinds label", has=page.locator("[value=inpaint]")).click()
    page.wait_for_selector("#source dialog.painter[data-ready]")


def no_picture(page: Any) -> None:
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('[data-source=remove]')?.click()")
    page.evaluate("document.documentElement.classList.remove('with-sheet')")


def viewer(page: Any) -> None:
    tab("gallery")(page)
    page.locator(".tile a.open").nth(2).click()
    page.wait_for_selector("[data-picture] .stage img")


def viewer_below(page: Any) -> None:
    viewer(page)
    page.evaluate("document.querySelector('.viewer .beside').scrollIntoView({ block: 'end' })")


def ticked(page: Any) -> None:
    tab("gallery")(page)
    if page.locator(".selecting").is_visible():
        page.locator(".selecting").click()
    for place in (0, 1):
        page.locator(".tile .tick input").nth(place).check(force=True)


def unticked(page: Any) -> None:
    page.evaluate("document.querySelector('#gallery [data-unpick]')?.click()")


def compared(page: Any) -> None:
    ticked(page)
    page.locator(".picked [data-do=compare]").click()
    page.wait_for_selector(".compare")


def uncompared(page: Any) -> None:
    page.keyboard.press("Escape")
    unticked(page)


def searched(page: Any) -> None:
    tab("gallery")(page)
    page.fill("#gallery [data-search]", "zeppelin")


def unsearched(page: Any) -> None:
    page.fill("#gallery [data-search]", "")


def binned(page: Any) -> None:
    tab("gallery")(page)
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery?trashed=1')")
    page.wait_for_selector("#gallery [data-key=head]")


def unbinned(page: Any) -> None:
    page.evaluate("diffusionLocalRouter.go(diffusionLocalRouter.base + 'gallery')")


def checked(page: Any) -> None:
    tab("lists")(page)
    page.fill("#list-text textarea", LIST)
    page.click("#list-check")
    page.wait_for_selector(".checked")
    page.evaluate("document.querySelector('#list-text').scrollIntoView()")


def unchecked(page: Any) -> None:
    page.fill("#list-text textarea", "")


def wrong_model(page: Any) -> None:
    tab("models")(page)
    page.fill("#model-source :is(input, textarea)", "not a model")
    page.click("#model-add")
    page.wait_for_selector("#toast .toast")


def health(page: Any) -> None:
    tab("settings")(page)
    page.evaluate("document.querySelector('[data-do=check_health]')?.click()")
    time.sleep(SETTLE * 3)


def timeline(page: Any) -> None:
    tab("queue")(page)
    page.evaluate("document.querySelector('#queue [data-do=what_happened]').click()")
    page.wait_for_selector(".timeline")


def bad_sign_in(page: Any) -> None:
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", "wrong")
    page.click("button.main")
    page.wait_for_selector(".said")


def signed_in(page: Any) -> None:
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", PASSWORD)
    page.click("button.main")
    page.wait_for_selector("#now .now")
    page.goto(page.url.rstrip("/") + "/account")


escape = pressing("Escape")
