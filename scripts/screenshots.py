"""Takes README's screenshot: plays the app with the starter model, in a home of its own and a headless Chromium.

    python scripts/screenshots.py            writes assets/screenshots/create.webp
    python scripts/screenshots.py FOLDER     writes every state of the page into FOLDER, see page_matrix.py
        --only 40 --variants phone-dark      those whose state, device, scheme and language hold these patterns
    python scripts/screenshots.py --page     writes the manual's pictures into assets/docs/page, see page_pictures.py
        --before FOLDER --only mask          with earlier pictures from there above them; only these views

Needs the ``test`` extra (playwright) and a Chromium on the PATH. Takes a few minutes on a CPU.
"""

import argparse
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_record import chromium
from PIL import Image
from playwright.sync_api import sync_playwright

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "screenshots"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

FIRST, SECOND = "a red apple", "a unicorn"
GALLERY = (
    "a red heart",
    "a strawberry",
    "a green tree",
    "a sunflower",
    "a butterfly",
    "a penguin",
    "an orange pumpkin",
    "a blue heart",
    "a cactus",
    "a slice of watermelon",
    "a red mushroom",
    "a tropical fish",
)


def main() -> int:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--variants", default="")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    browser_path = chromium()
    if options.folder:
        from page_matrix import shoot_all

        shoot_all(browser_path, options.folder, options.only, options.variants)
        return 0
    TARGET.mkdir(parents=True, exist_ok=True)
    with served() as (url, services), sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        if options.page:
            from page_pictures import take

            take(browser, url, services.studio, options.before, options.only)
        else:
            play(browser, url, services.studio)
        browser.close()
    return 0


@contextmanager
def served(**settings: object) -> Iterator[tuple[str, Services]]:
    """The app on a free port and a new home, once its worker is there; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-c", "from diffusion_local.cli import main; main()", "serve", "--port", str(port)]
        all_settings = {"home": home, "host": "127.0.0.1"} | settings
        environ = os.environ | {f"DIFFUSION_LOCAL_{name.upper()}": str(value) for name, value in all_settings.items()}
        app = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            services = open_services(Settings.load(environ=environ))
            until(lambda: any(worker.status == "idle" for worker in services.studio.workers()) and answers(port), 120)
            yield f"http://127.0.0.1:{port}", services
        finally:
            app.terminate()
            app.wait(30)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def play(browser: Any, url: str, studio: Studio) -> None:
    made = [studio.submit(prompt, seed=seed) for seed in (7, 11) for prompt in GALLERY]
    studio.wait([job_id for receipt in made for job_id in receipt.job_ids], 1800)
    for receipt in (made[-2], made[-5], made[-9]):
        studio.star(next(iter(studio.images_of(studio.jobs_of_batches([receipt.batch_id])).values())).id)

    desktop = page_of(browser, url, viewport=DESKTOP)
    press(desktop, FIRST, 4, seed=3)
    until(lambda: all(job.final for job in studio.jobs(limit=4)), 300)
    press(desktop, SECOND, 4, seed=5)
    running_at(studio, SECOND, index=3)
    desktop.click("#group-styles > button")
    desktop.mouse.move(640, 20)
    time.sleep(1)
    shoot(desktop, "create")


def page_of(browser: Any, url: str, scheme: str = "light", **options: Any) -> Any:
    page = browser.new_context(color_scheme=scheme, **options).new_page()
    page.set_default_timeout(120_000)  # while pictures are made, the page waits for the processor
    page.goto(url)
    page.wait_for_selector("#generate")
    page.wait_for_function("document.querySelector('#now .now')")
    return page


def go(page: Any, tab: str, seconds: float = 2) -> None:
    page.evaluate("(view) => diffusionLocalRouter.go(diffusionLocalRouter.base + view)", tab)
    page.wait_for_selector(f"[role=tab][data-tab-id={tab}][aria-selected=true]", state="attached")
    time.sleep(seconds)


def press(page: Any, prompt: str, count: int, seed: int) -> None:
    """A press of Generate. On a phone the settings are a sheet, which is opened for the seed and closed again."""
    page.fill("#prompt textarea", prompt)
    page.fill("#count input", str(count))
    sheet = page.locator("[data-sheet]")
    if sheet.is_visible():
        sheet.click()
    page.fill("#seed input", str(seed))
    if page.locator("html.with-sheet").count():
        page.keyboard.press("Escape")
        page.wait_for_selector("html:not(.with-sheet)", state="attached")
    page.click("#generate")
    page.locator(f".batch[data-prompt='{prompt}']").first.wait_for()


def running_at(studio: Studio, prompt: str, index: int) -> None:
    """Until that picture of a press is well under way."""

    def there() -> bool:
        return any(
            job.params.prompt == prompt and job.index >= index and job.step >= job.params.steps // 2
            for job in studio.snapshot().running
        )

    until(there, 300, every=0.05)


def until(condition: Callable[[], bool], seconds: float, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("it took too long")
        time.sleep(every)


def shoot(page: Any, name: str) -> None:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = TARGET / f"{name}.webp"
    shot.save(path, quality=80, method=6)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
