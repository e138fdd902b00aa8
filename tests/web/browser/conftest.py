"""A real Chromium, with a real server and worker (fake engine), and page actions as a person takes them."""

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
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The browser's profile on disk, whose cache of compiled scripts saves work when the page is opened again."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium found; looked for {', '.join(BROWSERS)}")
    with playwright_api.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"), executable_path=path, args=ARGUMENTS, viewport=DESKTOP
        )
        yield context
        context.close()


@pytest.fixture(scope="session")
def chromium(profile: Any) -> Any:
    """The browser, for further profiles that are empty and in memory."""
    return profile.browser


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


def forget(profile: Any, url: str) -> None:
    """Close the profile's pages and remove what they stored; its HTTP cache stays."""
    blank, *pages = profile.pages
    for page in pages:
        page.close()
    profile.clear_cookies()
    session = profile.new_cdp_session(blank)
    session.send("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "local_storage,indexeddb"})
    session.detach()


@pytest.fixture
def people(profile: Any, chromium: Any, site: Site) -> Iterator[Any]:
    """Opens browsers; at the end no console may have complained and no other host may have been asked.

    The first person without options has the profile on disk, which is cleared afterwards.
    """
    opened: list[Person] = []

    def enter(**options: Any) -> Person:
        plain = not opened and not options
        person = Person(profile if plain else chromium.new_context(**{"viewport": DESKTOP} | options), site)
        opened.append(person)
        return person

    yield enter
    for person in opened:
        if person.context is profile:
            forget(profile, site.url)
        else:
            person.context.close()
    site.services.studio.queue.cancel(waiting=True)
    site.services.studio.queue.resume()
    assert [complaint for person in opened for complaint in person.complaints] == []


@pytest.fixture(params=[pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone", marks=pytest.mark.slow)])
def page(people: Any, request: pytest.FixtureRequest) -> Any:
    return (people() if request.param == DESKTOP else people(viewport=request.param)).open()
