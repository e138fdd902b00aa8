"""Cost of the page: its poll, ten open tabs, a large gallery, a long queue.

    python scripts/bench_page.py [--rows 1000 100000 1000000] [--waiting 10000 100000] [--record FILE.json]

Rows are inserted in bulk into their own home, with prompts of realistic length and repetition; they have no files,
because nothing measured here opens one. Polls and tabs go to a real web process over HTTP, with a gallery of 1,000.
Other ``ms`` are times of the use case as the page's handler calls it, including the first, uncached call.
"""

import argparse
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from bench_gallery import BOARDS, RARE, fill_gallery
from bench_record import conditions, percentiles, publish
from bench_studio import in_home, web_process

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services
from diffusion_local.settings import go_offline

LOOKS = 20
PAGE = 49  # one more than the page shows, as it requests
DEEP = 100  # pages before the measured one
TABS, TAB_SECONDS = 10, 20.0
SEARCHES = {
    "a rare word": RARE,
    "a common word": "detailed",  # in two thirds of the prompts
    "two words": "castle moonlight",
    "a common and a rare word": f"detailed {RARE}",
    "a beginning": "cas",
    "a phrase": '"northern lights"',
    "without a word": "castle -detailed",
    "a word that is nowhere": "quxzyw",
    "Chinese": "城堡",
    "a Chinese character": "城",
    "Chinese that is nowhere": "宇宙飞船",
    "Chinese whose characters are there": "光的水",
    "an emoji": "🦊",
}


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--waiting", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--no-server", action="store_true", help="leave out what needs a web process")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = conditions("gradio") | {"sqlite": sqlite3.sqlite_version}
    if not options.no_server:
        record |= in_home(served)
    record["gallery"] = {str(count): in_home(partial(gallery, count=count)) for count in options.rows}
    record["queue"] = {str(count): in_home(partial(queue, count=count)) for count in options.waiting}
    record["load_1_min_at_end"] = round(os.getloadavg()[0], 2)
    publish(record, options.record)


# -- the gallery ----------------------------------------------------------------------------------------------------


def gallery(services: Services, count: int) -> dict[str, Any]:
    began = time.perf_counter()
    ids = fill_gallery(services, count)
    figures: dict[str, Any] = {"rows": count, "filled_in_s": round(time.perf_counter() - began, 1)}
    figures["database_mb"] = round(services.settings.database_file.stat().st_size / 1e6)
    figures["ms"] = {name: percentiles(timed(look)) for name, look in looks_at(services, ids).items()}
    return figures


def looks_at(services: Services, ids: list[str]) -> dict[str, Callable[[], Any]]:
    """Typical gallery queries, by name."""
    from diffusion_local.web.ui import tab_gallery
    from diffusion_local.web.ui.view import utc

    count = len(ids)
    pictures, boards = services.studio.pictures, services.studio.boards.all()
    deep = ids[-min(DEEP * PAGE, count // 2)]
    batch = services.images.get(ids[len(ids) // 2])
    batch_id = batch_of(services, batch.id)
    day = batch.created_at[:10]
    filters: dict[str, dict[str, Any]] = {
        "starred": {"starred": True},
        "model": {"model": "sdxl"},
        "a model of ten pictures": {"model": "rare"},
        "batch": {"batch": batch_id},
        "board": {"board": boards[0].id},
        "day": {"since": day, "until": day},
        "until a day": {"until": day},
        "shape": {"shape": "square"},
        "same recipe": {"like": batch.id},
        "trash": {"trashed": True},
    }
    looks: dict[str, Callable[[], Any]] = {
        "first page": lambda: pictures.page(PAGE),
        f"page after {DEEP} pages": lambda: pictures.page(PAGE, deep),
        "drawn (page, boards, models, count, HTML)": lambda: tab_gallery.draw(
            services.studio, services.studio.snapshot(), utc(), ""
        ),
        "models": pictures.models,
        f"{BOARDS} boards of {len(boards) and boards[0].count}": services.studio.boards.all,
        "count": services.studio.gallery_count,
    }
    for name, gallery_filter in filters.items():
        looks[f"filter: {name}"] = partial(pictures.page, PAGE, **gallery_filter)
    for name, words in SEARCHES.items():
        looks[f"search: {name}"] = partial(pictures.page, PAGE, search=words)
    looks[f"search: a common word, after {DEEP} pages"] = lambda: pictures.page(PAGE, deep, search="detailed")
    for name, gallery_filter in filters.items():
        looks[f"search: a common word, and {name}"] = partial(pictures.page, PAGE, search="detailed", **gallery_filter)
        looks[f"search: a rare word, and {name}"] = partial(pictures.page, PAGE, search=RARE, **gallery_filter)
    return looks


def batch_of(services: Services, image_id: str) -> str:
    with services.database.read() as db:
        return db.execute("SELECT batch_id FROM images WHERE id = ?", [image_id]).fetchone()[0]


# -- the queue ------------------------------------------------------------------------------------------------------


def queue(services: Services, count: int) -> dict[str, Any]:
    from diffusion_local.web.ui import tab_queue
    from diffusion_local.web.ui.view import utc

    for first in range(0, count, 100):
        services.studio.submit(f"a red apple {first}", count=min(100, count - first))
    services.database.upkeep()
    return {
        "waiting": count,
        "snapshot_ms": percentiles(timed(services.studio.snapshot)),
        "snapshot_and_draw_ms": percentiles(
            timed(lambda: tab_queue.draw(services.studio, services.studio.snapshot(), utc(), ""))
        ),
        "bytes_drawn": len(tab_queue.draw(services.studio, services.studio.snapshot(), utc(), "").encode()),
    }


# -- polls and tabs -------------------------------------------------------------------------------------------------


def served(services: Services) -> dict[str, Any]:
    """Measure polls and tabs with a separate web process; without a worker, so that only this process makes changes."""
    fill_gallery(services, 1000)
    with web_process(services) as (pid, url), httpx.Client(base_url=url, timeout=60) as client:
        client.get("/config").raise_for_status()
        return {"poll": polls(services, client), "tabs": tabs(services, client, psutil.Process(pid))}


@dataclass
class Page:
    """A simulated browser tab that polls."""

    client: httpx.Client
    tab: str = "create"
    seen: str = ""

    def poll(self) -> tuple[float, int]:
        """Poll over HTTP: (seconds, bytes of the response)."""
        body = {"seen": self.seen, "tab": self.tab, "asked": []}
        began = time.perf_counter()
        answer = self.client.post("/look", json=body).raise_for_status()
        seconds = time.perf_counter() - began
        if answer.content:
            self.seen = answer.json()["seen"]
        return seconds, len(answer.content)


def polls(services: Services, client: httpx.Client) -> dict[str, Any]:
    """Polls of each tab, without changes and with one more job each time; by the handler alone and over HTTP."""
    from diffusion_local.web.page_delta import TABS, delta_since

    figures = {}
    for tab in TABS:
        each = Page(client, tab)
        first = each.poll()
        still = [each.poll() for _ in range(LOOKS)]
        changed = []
        for number in range(LOOKS):
            services.studio.submit(f"a red apple {number}")
            changed.append(each.poll())
        seen, _ = delta_since(services.studio, "", tab, []) or ("", {})
        figures[tab] = {
            "first_bytes": first[1],
            "unchanged_http_ms": percentiles([seconds for seconds, _ in still]),
            "unchanged_bytes": still[-1][1],
            "changed_http_ms": percentiles([seconds for seconds, _ in changed]),
            "changed_bytes": round(statistics.mean(size for _, size in changed)),
            "unchanged_handler_ms": percentiles(timed(partial(delta_since, services.studio, seen, tab, []))),
            "changed_handler_ms": percentiles(timed(partial(delta_since, services.studio, "", tab, []))),
        }
    return figures


def tabs(services: Services, client: httpx.Client, web: psutil.Process) -> dict[str, Any]:
    """CPU time of the web process, as a share of one core: without tabs; with TABS tabs that poll once a second while
    nothing changes; and with a change every second, as while a picture is made.
    """
    figures: dict[str, Any] = {"open": TABS, "seconds": TAB_SECONDS}
    figures["share_of_a_core_with_none"] = share_of(web, TAB_SECONDS / 2)
    opened = [Page(client, "queue") for _ in range(TABS)]
    stop = threading.Event()

    def look(each: Page) -> None:
        while not stop.wait(1.0):
            each.poll()

    def change() -> None:
        while not stop.wait(1.0):
            services.studio.queue.pause()
            services.studio.queue.resume()

    threads = [threading.Thread(target=look, args=(each,)) for each in opened]
    for thread in threads:
        thread.start()
    time.sleep(3)  # until each tab has polled
    figures["share_of_a_core"] = share_of(web, TAB_SECONDS)
    threads.append(threading.Thread(target=change))
    threads[-1].start()
    figures["share_of_a_core_while_all_changes"] = share_of(web, TAB_SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    return figures


def share_of(web: psutil.Process, seconds: float) -> float:
    before, began = sum(web.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return round((sum(web.cpu_times()[:2]) - before) / (time.monotonic() - began), 4)


def timed(look: Callable[[], Any], looks: int = LOOKS) -> list[float]:
    seconds = []
    for _ in range(looks):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    go_offline(Path(tempfile.mkdtemp(prefix="gradio-")))
    main()
