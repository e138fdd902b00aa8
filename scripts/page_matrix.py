"""Every tab and state of the page as screenshots for a designer: ``screenshots.py FOLDER`` takes them all.

Each state is shot on a desktop and a phone, light and dark, in each language: FOLDER/STATE-DEVICE-SCHEME-LANGUAGE.png.
All that axe-core finds in it is written into FOLDER/findings.txt.
The fake engine draws the pictures, so that every state can be held as long as it takes.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import page_states
import page_views
from axe_playwright_python.sync_playwright import Axe
from page_hub import slow_hub
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright
from screenshots import served, until

from diffusion_local.compose import Services

DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
}
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}
STEP_SECONDS = 0.45


SetUp = Callable[[Services, Any], None]


@dataclass(frozen=True, slots=True)
class Shot:
    """``set_up`` makes the state, once; ``show`` brings each page to it; ``put_back`` leaves it on each. ``of``: the
    device that has it, if not both have."""

    name: str
    show: Callable[[Any], None]
    set_up: SetUp = lambda services, pages: None
    put_back: Callable[[Any], None] = lambda page: None
    of: str = ""


def both(first: SetUp, second: SetUp) -> SetUp:
    def set_up(services: Services, pages: Any) -> None:
        first(services, pages)
        second(services, pages)

    return set_up


def shoot_all(chromium: str, folder: Path, only: str, variants: str) -> None:
    """``only`` and ``variants`` are regular expressions that a state's and a variant's name must hold."""
    folder.mkdir(parents=True, exist_ok=True)
    slow = {"engine": "fake", "fake_step_seconds": STEP_SECONDS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with slow_hub() as hub, served(**slow, hub_endpoint=hub, host="0.0.0.0", auth="none") as (url, services):
            page_states.break_a_model(services)
            pages = dict(opened(browser, url, variants))
            shoot(SHOTS, services, pages, folder, only)
            for page in pages.values():
                page.context.close()
        with served(**slow) as (url, services):
            services.studio.accounts.add("ada", page_views.PASSWORD, "admin")
            until(lambda: asks_to_sign_in(url), 30)  # the web process notices the first account within some seconds
            pages = dict(opened(browser, url, variants, "form"))
            shoot(ACCOUNT_SHOTS, services, pages, folder, only)
        browser.close()


def asks_to_sign_in(url: str) -> bool:
    return httpx.get(url, headers={"Accept": "text/html"}).is_redirect


def shoot(shots: Sequence[Shot], services: Services, pages: dict[str, Any], folder: Path, only: str) -> None:
    for shot in shots:
        shot.set_up(services, pages)
        if not re.search(only, shot.name):
            continue
        for variant, page in pages.items():
            if not variant.startswith(shot.of):
                continue
            page.bring_to_front()
            try:
                shot.show(page)
                time.sleep(page_views.SETTLE / 2)
                page.screenshot(path=folder / f"{shot.name}-{variant}.png")
                note_findings(page, f"{shot.name}-{variant}", folder / "findings.txt")
                shot.put_back(page)
            except PlaywrightError as error:
                print(f"{shot.name}-{variant}: {error}", flush=True)
                page.screenshot(path=folder / f"{shot.name}-{variant}-BROKEN.png")
                page.reload()
        print(shot.name, flush=True)


def note_findings(page: Any, name: str, file: Path) -> None:
    """Append all violations that axe-core finds: rule, impact, element."""
    with file.open("a", encoding="utf-8") as out:
        for found in Axe().run(page).response["violations"]:
            for node in found["nodes"]:
                out.write(f"{name}: {found['id']} ({found['impact']}) {node['target']} {node['html'][:200]!r}\n")


def opened(browser: Any, url: str, variants: str, waits_for: str = "#now .now") -> Iterator[tuple[str, Any]]:
    for device, size in DEVICES.items():
        for scheme in ("light", "dark"):
            for language, locale in LANGUAGES.items():
                name = f"{device}-{scheme}-{language}"
                if not re.search(variants, name):
                    continue
                page = browser.new_context(color_scheme=scheme, locale=locale, **size).new_page()
                page.set_default_timeout(20_000)
                page.goto(url)
                page.wait_for_selector(waits_for)
                yield name, page


SHOTS = (
    Shot("01-create-welcome", page_views.tab("create")),
    Shot("02-lists-empty", page_views.tab("lists")),
    Shot("03-queue-empty", page_views.tab("queue")),
    Shot("04-gallery-empty", page_views.tab("gallery")),
    Shot("05-models", page_views.tab("models")),
    Shot("06-settings", page_views.tab("settings")),
    Shot("07-settings-health", page_views.health),
    Shot("08-settings-own", page_views.lower("settings", "#settings section:nth-of-type(4)")),
    Shot("09-keys", page_views.clicking("create", "[data-do=keys]"), put_back=page_views.escape, of="desktop"),
    Shot("10-phone", page_views.clicking("create", "[data-do=phone]"), put_back=page_views.escape, of="desktop"),
    Shot("11-create-idle", page_views.tab("create"), page_states.pictures),
    Shot("12-create-wrong", page_views.wrong, put_back=page_views.reload),
    Shot("20-gallery", page_views.tab("gallery")),
    Shot("21-gallery-board-menu", page_views.clicking("gallery", ".filters .menu summary"), put_back=page_views.escape),
    Shot("22-gallery-ticked", page_views.ticked, put_back=page_views.unticked),
    Shot("23-gallery-compare", page_views.compared, put_back=page_views.uncompared),
    Shot("24-gallery-nothing", page_views.searched, put_back=page_views.unsearched),
    Shot("25-gallery-trash", page_views.binned, page_states.trashed, page_views.unbinned),
    Shot("26-viewer", page_views.viewer, put_back=page_views.escape),
    Shot("27-viewer-below", page_views.viewer_below, put_back=page_views.escape),
    Shot("30-create-img2img", page_views.from_picture),
    Shot("31-create-inpaint", page_views.brush, put_back=page_views.no_picture),
    Shot("40-create-busy", page_views.tab("create"), page_states.busy),
    Shot("41-queue-busy", page_views.tab("queue")),
    Shot("42-queue-timeline", page_views.timeline, put_back=page_views.escape),
    Shot(
        "43-models-busy",
        page_views.lower("models", "#models"),
        both(page_states.downloads, page_states.running),
    ),
    Shot("44-models-wrong", page_views.wrong_model),
    Shot("45-models-below", page_views.lower("models", "#models > * section:last-of-type")),
    Shot("46-create-paused", page_views.tab("create"), page_states.paused),
    Shot("47-queue-paused", page_views.tab("queue")),
    Shot("48-create-worker-silent", page_views.tab("create"), page_states.worker_silent),
    Shot(
        "50-lists-checked",
        page_views.checked,
        both(page_states.worker_back, page_states.all_cancelled),
        page_views.unchecked,
    ),
    Shot("51-lists-batches", page_views.lower("lists", ".batches"), page_states.listed),
    Shot(
        "52-lists-for-all",
        page_views.clicking("lists", "#list-for-all > button", "#list-when > button"),
        page_states.going,
    ),
    Shot("53-create-after", page_views.tab("create"), page_states.all_cancelled),
)
ACCOUNT_SHOTS = (
    Shot("60-sign-in", lambda page: None),
    Shot("61-sign-in-wrong", page_views.bad_sign_in),
    Shot("62-account", page_views.signed_in),
)
