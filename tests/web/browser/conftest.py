"""A real Chromium, with a real server and worker (fake engine), and the ways of a person through the page."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.web.conftest import Site

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
PATIENCE = 45_000  # milliseconds


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium found; looked for {', '.join(BROWSERS)}")
    with playwright_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Person:
    """A browser profile of its own, and all that went wrong in it."""

    context: Any
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._only_home)
        page.goto(self.site.url)
        page.wait_for_selector("#generate")
        page.wait_for_function("document.querySelector('#now .now')")
        return page

    def _only_home(self, request: Any) -> None:
        if not request.url.startswith((self.site.url, "data:", "blob:")):
            self.complaints.append(f"asked {request.url}")


@pytest.fixture
def people(chromium: Any, site: Site) -> Iterator[Any]:
    """Opens browsers; at the end no console may have complained and no other host may have been asked."""
    opened: list[Person] = []

    def enter(**options: Any) -> Person:
        person = Person(chromium.new_context(**{"viewport": DESKTOP} | options), site)
        opened.append(person)
        return person

    yield enter
    for person in opened:
        person.context.close()
    site.services.studio.queue.cancel(waiting=True)
    site.services.studio.queue.resume()
    assert [complaint for person in opened for complaint in person.complaints] == []


@pytest.fixture(params=[pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.slow)])
def page(people: Any, request: pytest.FixtureRequest) -> Any:
    return people(viewport=request.param).open()
