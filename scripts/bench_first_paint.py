"""Time until the page is visible and accepts input: a real web process, a real Chromium, a gallery of 1,000 pictures.

    python scripts/bench_first_paint.py [--visits 7] [--record FILE.json]

The first visit meets a server that has just started to listen. ``new`` visits use an empty browser profile, ``again``
ones the profile of the previous visit. Times since the start of navigation: ``paint_ms`` until the first contentful
paint, ``type_ms`` until the prompt accepts input, ``form_ms`` until the whole form is there, with what was typed, and
``drawn_ms`` until the newest state is drawn.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from bench_gallery import fill_gallery
from bench_record import chromium, conditions, publish
from bench_studio import in_home, web_process
from playwright.sync_api import sync_playwright

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services

SIZES = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=7)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = {
        **conditions("gradio"),
        **in_home(lambda services: visits(services, options.visits)),
    }
    publish(record, options.record)


def visits(services: Services, count: int) -> dict[str, Any]:
    fill_gallery(services, 1000)
    figures: dict[str, Any] = {}
    with web_process(services) as (_, url), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        figures["browser"] = f"Chromium {browser.version}"
        for device, size in SIZES.items():
            rows: dict[str, list[dict[str, float]]] = {"new": [], "again": []}
            for _ in range(count):
                context = browser.new_context(viewport=size)
                for rows_of in rows.values():
                    rows_of.append(visit(context, url))
                context.close()
            figures[device] = {"first_visit": rows["new"][0]} | {kind: summary(found) for kind, found in rows.items()}
        browser.close()
    return figures


def visit(context: Any, url: str) -> dict[str, float]:
    page = context.new_page()
    finished: list[Any] = []
    page.on("requestfinished", lambda request: finished.append(request))
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator("#early-prompt:visible, #prompt textarea:visible").first.fill("a red apple")
    typed = time.perf_counter() - began
    page.wait_for_function("document.querySelector('#prompt textarea')?.value === 'a red apple'")
    form = time.perf_counter() - began
    page.wait_for_function("document.querySelector('#now .now')")
    drawn = time.perf_counter() - began
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.wait_for_load_state("networkidle")
    figures = {"paint_ms": paint, "type_ms": typed * 1000, "form_ms": form * 1000, "drawn_ms": drawn * 1000}
    sent = [request.sizes()["responseBodySize"] for request in list(finished)]
    figures |= {"kb": sum(sent) / 1000, "requests": len(sent)}
    page.close()
    return {name: round(value) for name, value in figures.items()}


def summary(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"p50": statistics.median(each[name] for each in found), "most": max(each[name] for each in found)}
        for name in found[0]
    }


if __name__ == "__main__":
    main()
