"""Scrolling a gallery of a million pictures, and the page's interactions: a real web process and a real Chromium.

    python scripts/bench_scroll.py [--rows 1000000] [--seconds 30] [--record FILE.json]

``long_tasks_ms``: tasks of the browser's main thread over 50 ms while the wheel turns (Long Tasks API). ``ms`` of an
interaction: from its input to the next paint, the slowest of its events (Event Timing API, which rounds to 8 ms).
Pictures are rows without files; each is shown as the same thumbnail.
"""

import argparse
import io
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench_gallery import fill_gallery
from bench_record import chromium, conditions, publish
from bench_studio import in_home, web_process
from PIL import Image
from playwright.sync_api import sync_playwright
from screenshots import go

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services

SIZE = {"width": 1440, "height": 900}
NOTCH, PAUSE_MS = 600, 50  # pixels of a turn of the wheel, and the time until the next
WATCH = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((each) => Math.round(each.duration))))
    .observe({ type: "longtask" });
  window.events = [];
  new PerformanceObserver((list) => {
    for (const each of list.getEntries()) if (each.interactionId) events.push([each.name, each.duration]);
  }).observe({ type: "event", durationThreshold: 16 });
}"""


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = {
        **conditions("gradio"),
        **in_home(partial(measured, rows=options.rows, seconds=options.seconds)),
    }
    publish(record, options.record)


def measured(services: Services, rows: int, seconds: float) -> dict[str, Any]:
    fill_gallery(services, rows)
    thumbnail = io.BytesIO()
    Image.radial_gradient("L").resize((384, 384)).save(thumbnail, "WEBP")
    with web_process(services) as (_, url), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport=SIZE).new_page()
        page.set_default_timeout(10_000)
        picture = re.compile(r"/(thumbnails|files)/")
        page.route(picture, lambda route: route.fulfill(body=thumbnail.getvalue(), content_type="image/webp"))
        page.goto(url)
        page.wait_for_selector("#now .now")
        told = {
            "browser": f"Chromium {browser.version}",
            "rows": rows,
            "scroll": scroll(page, seconds),
            "interactions_ms": interactions(page),
        }
        browser.close()
    return told


def scroll(page: Any, seconds: float) -> dict[str, Any]:
    go(page, "gallery")
    page.wait_for_selector("#gallery .tile")
    page.mouse.move(SIZE["width"] / 2, SIZE["height"] / 2)
    page.evaluate(WATCH)
    seen: set[str] = set()
    tiles, elements, deadline = 0, 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.mouse.wheel(0, NOTCH)
        page.wait_for_timeout(PAUSE_MS)
        ids, count = page.evaluate(
            "[[...document.querySelectorAll('#gallery .tile')].map((each) => each.dataset.id), "
            "document.getElementsByTagName('*').length]"
        )
        seen |= set(ids)
        tiles, elements = max(tiles, len(ids)), max(elements, count)
    return {
        "seconds": seconds,
        "pictures_passed": len(seen),
        "most_tiles": tiles,
        "most_elements": elements,
        "long_tasks_ms": sorted(page.evaluate("longTasks"), reverse=True),
    }


def interactions(page: Any) -> dict[str, float]:
    """The slowest event of each interaction; below 16 ms none is told, which is 0 here."""

    def click(selector: str) -> Callable[[], None]:
        return lambda: page.locator(selector).first.click()

    def key(name: str) -> Callable[[], None]:
        return lambda: page.keyboard.press(name)

    def search() -> None:
        page.locator("[data-search]").click()
        page.keyboard.type("castle", delay=60)

    def prompt() -> None:
        page.locator("#prompt textarea").click()
        page.keyboard.type("a red apple on a table", delay=60)

    steps: dict[str, Callable[[], None]] = {
        "search": search,
        "open a picture": click("#gallery .tile a.open"),
        "next picture": key("ArrowRight"),
        "close the picture": key("Escape"),
        "select a picture": click("#gallery .tile .tick"),
        "to Create": click("#views [data-view=create]"),
        "type a prompt": prompt,
        "open the styles": click("#group-styles > button"),
        "open the list of models": click("#model input"),
        "close it": key("Escape"),
        "another picture of the strip": click(".strip .shot:not([aria-current=true])"),
        "menu of the picture": click(".caption .menu:last-child summary"),
        "open the queue": click("#drawer-button"),
        "close the queue": click("#drawer-button"),
        "to Lists": click("#views [data-view=lists]"),
        "to Models": click("#views [data-view=models]"),
        "to Settings": click("#views [data-view=settings]"),
    }
    told: dict[str, float] = {}
    for name, act in steps.items():
        page.evaluate("events.length = 0")
        act()
        page.wait_for_timeout(700)
        told[name] = max((duration for _, duration in page.evaluate("events")), default=0)
    return told


if __name__ == "__main__":
    main()
