"""What the journeys do again and again."""

import itertools
import re
from typing import Any

from tests.web.conftest import Site

numbers = itertools.count(1)


def a_prompt(words: str = "a red apple") -> str:
    """Different each time, so that tests that share a server find their own."""
    return f"{words} number {next(numbers)}"


def press(page: Any, prompt: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.click("#generate")


def worked(site: Site, prompt: str) -> str:
    """Id of a picture that somebody else submitted and the worker has made."""
    job_ids = site.services.studio.submit(prompt, width=128, height=128, steps=2).job_ids
    job = site.services.studio.wait(job_ids, 30)[0]
    return site.services.studio.images_of([job])[job.id].id


def go(page: Any, tab: str) -> None:
    page.click(f"[role=tab][data-tab-id={tab}]")
    page.wait_for_selector(f"[role=tab][data-tab-id={tab}][aria-selected=true]")


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def batch(page: Any, prompt: str) -> Any:
    return page.locator(".batch", has=page.locator("h2", has_text=re.compile(f"^{re.escape(prompt)}$")))
