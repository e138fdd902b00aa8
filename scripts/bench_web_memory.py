"""Memory of the web process: at rest, after its first page in Chromium, with ten tabs; and Gradio's own.

    python scripts/bench_web_memory.py [--record FILE.json]

The home has 50 pictures of 512 x 512 pixels, drawn by the test engine. Megabytes are 10^6 bytes: ``rss`` is what the
system holds for the process, ``pss`` counts pages shared with other processes by their share, and ``private`` leaves
them out. ``gradio`` is a process of its own that imports Gradio and serves a page with a single text field.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_record import chromium, conditions, publish
from bench_studio import in_home, web_process
from playwright.sync_api import Page, sync_playwright

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services
from diffusion_local.domain import Image, utc_now
from diffusion_local.engine.fake import draw_card
from diffusion_local.gallery.files import key_for
from diffusion_local.settings import go_offline

PICTURES, SIDE, TABS = 50, 512, 10
VIEWS = ("create", "queue", "gallery", "lists", "models", "settings")
GRADIO_ALONE = """
import gradio as gr, sys
with gr.Blocks() as page:
    gr.Textbox()
_, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
print(url, flush=True)
sys.stdin.read()
"""


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {
        **conditions("gradio"),
        "mb": in_home(memory) | {"gradio": gradio_alone()},
    }
    publish(record, options.record)


def memory(services: Services) -> dict[str, Any]:
    for number in range(PICTURES):
        draw(services, number)
    figures = {}
    with web_process(services) as (pid, url), sync_playwright() as driver:
        figures["at_rest"] = sizes(pid)
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        look(page, url, "create")
        figures["after_the_first_page"] = sizes(pid)
        for view in VIEWS:
            look(page, url, view)
        figures["after_all_views"] = sizes(pid)
        tabs = [browser.new_page() for _ in range(TABS - 1)]
        for number, tab in enumerate(tabs):
            look(tab, url, VIEWS[number % len(VIEWS)])
        time.sleep(5)  # each tab polls once a second
        figures["with_ten_tabs"] = sizes(pid)
        browser.close()
    return figures


def draw(services: Services, number: int) -> None:
    """A finished job with its picture."""
    services.studio.submit(f"a red apple {number}", width=SIDE, height=SIDE, seed=number)
    job = services.jobs.claim_next("cpu0")
    assert job is not None
    saved = services.files.save(key_for(job.id, job.created_at), draw_card(job.params), {})
    image = Image(job.id, job.id, saved.key, job.params, SIDE, SIDE, saved.bytes, utc_now(), 0.5)
    services.jobs.finish(job.claim, image)


def look(page: Page, url: str, view: str) -> None:
    page.goto(f"{url}/ui/{view}")
    page.wait_for_function("document.querySelector('#now .now')")
    page.wait_for_load_state("networkidle")


def sizes(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) * 1.024 for name, _, value in (line.partition(":") for line in lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    found = {"rss": kilobytes["Rss"], "pss": kilobytes["Pss"], "private": private}
    return {name: round(value / 1000, 1) for name, value in found.items()}


def gradio_alone() -> dict[str, Any]:
    """The same for a program with Gradio and a page of one text field."""
    command = [sys.executable, "-c", GRADIO_ALONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        url = child.stdout.readline().strip()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(url)
            page.locator("textarea").wait_for()
            figures = sizes(child.pid)
            browser.close()
        child.stdin.close()
    return figures


if __name__ == "__main__":
    go_offline(Path(tempfile.mkdtemp(prefix="gradio-")))
    main()
