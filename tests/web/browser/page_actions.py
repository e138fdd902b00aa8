"""Page actions that many browser tests share."""

import itertools
import json
from typing import Any

from tests.web.conftest import Site

prompt_numbers = itertools.count(1)


def unique_prompt(words: str = "a red apple") -> str:
    """Different each time, so that tests that share a server find their own."""
    return f"{words} number {next(prompt_numbers)}"


def generate(page: Any, prompt: str) -> None:
    if page.locator("html.with-sheet").count():  # it covers the prompt
        page.keyboard.press("Escape")
    page.fill("#prompt textarea", prompt)
    page.click("#generate")


def make_picture(site: Site, prompt: str) -> str:
    """Id of a picture that somebody else submitted and the worker has made."""
    job_ids = site.services.studio.submit(prompt, width=128, height=128, steps=2).job_ids
    job = site.services.studio.wait(job_ids, 30)[0]
    return site.services.studio.images_of([job])[job.id].id


def open_view(page: Any, tab: str) -> None:
    """By the navigation where that has an entry, else by the address."""
    link = page.locator(f"#views [data-view={tab}]:visible, #tabbar > [data-view={tab}]:visible")
    if link.count():
        link.first.click()
    else:
        page.evaluate("(view) => diffusionLocalRouter.go(diffusionLocalRouter.base + view)", tab)
    page.wait_for_selector(f"#tabs [role=tab][data-tab-id={tab}][aria-selected=true]", state="attached")


def fits_width(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def batch_in_strip(page: Any, prompt: str) -> Any:
    """The pictures of a press in Create's strip."""
    return page.locator(f".batch[data-prompt={json.dumps(prompt)}]")


def show_on_stage(page: Any, shot: Any) -> Any:
    """The stage, with this picture of the strip on it."""
    shot.click()
    page.wait_for_function(
        "(id) => document.querySelector('.shot[aria-current=true]')?.dataset.at === id",
        arg=shot.get_attribute("data-at"),
    )
    return page.locator(".stagehand")


def open_settings(page: Any) -> None:
    """Opens the settings where they are a sheet: on a phone."""
    button = page.locator("[data-sheet]:visible")
    if button.count() and not page.locator("html.with-sheet").count():
        button.click()


def answer_dialog(page: Any, text: str | None = None) -> None:
    """Of the page's own dialog: what is asked for is typed, or confirmed."""
    if text is not None:
        page.fill("#asking input", text)
    page.click("#asking .primary")
