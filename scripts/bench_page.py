"""Cost of the page: its poll, ten open tabs, a large gallery, a long queue.

    python scripts/bench_page.py [--rows 1000 100000 1000000] [--waiting 10000 100000] [--record FILE.json]

Rows are inserted in bulk into their own home, with prompts of realistic length and repetition; they have no files,
because nothing measured here opens one. Polls and tabs go to a real web process over HTTP, with a gallery of 1,000.
Other ``ms`` are times of the use case as the page's handler calls it, including the first, uncached call.
"""

import argparse
import json
import os
import platform
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import psutil

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.db import rows
from diffusion_local.db.copying import rebuild_text_index
from diffusion_local.domain import Image, new_id, utc_text
from diffusion_local.options.table import Params
from diffusion_local.settings import Settings, go_offline

BATCH = 100  # pictures per batch
BOARDS, ON_BOARD = 50, 1000
LOOKS = 20
PAGE = 49  # one more than the page shows, as it requests
DEEP = 100  # pages before the measured one
TABS, TAB_SECONDS = 10, 20.0
SUBJECTS = [
    "castle",
    "lighthouse",
    "fox",
    "dragon",
    "robot",
    "apple",
    "samurai",
    "whale",
    "forest",
    "astronaut",
    "bicycle",
    "harbor",
    "village",
    "owl",
]
KINDS = [
    "ancient",
    "tiny",
    "crystal",
    "rusty",
    "floating",
    "forgotten",
    "golden",
    "mechanical",
    "sleeping",
    "burning",
    "wooden",
    "neon",
]
PLACES = [
    "at sunrise",
    "in heavy rain",
    "under the northern lights",
    "by the sea",
    "on Mars",
    "in a snowstorm",
    "in moonlight",
]
STYLES = ["oil painting", "watercolor", "35mm photo", "isometric render", "ink drawing", "matte painting", "pixel art"]
TAILS = [
    "volumetric light",
    "shallow depth of field",
    "trending",
    "sharp focus",
    "muted colors",
    "film grain",
    "wide angle",
]
CHINESE = "雪山下的古老城堡，水彩画，柔和的光"
RARE = "zeppelin"  # in ten prompts, regardless of their number
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
    counts = [" ".join(map(str, each)) for each in (options.rows, options.waiting)]
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": f"scripts/bench_page.py --rows {counts[0]} --waiting {counts[1]}",
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
        "versions": {"sqlite": sqlite3.sqlite_version, "gradio": metadata.version("gradio")},
    }
    if not options.no_server:
        record |= in_home(served)
    record["gallery"] = {str(count): in_home(partial(gallery, count=count)) for count in options.rows}
    record["queue"] = {str(count): in_home(partial(queue, count=count)) for count in options.waiting}
    record["load_1_min_at_end"] = round(os.getloadavg()[0], 2)
    print(json.dumps(record, indent=2, ensure_ascii=False))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def in_home(measure: Callable[[Services], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        services = open_services(Settings.load({}, home=Path(home), engine="fake", max_queued=10**7, port=0))
        try:
            return measure(services)
        finally:
            services.database.close()


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


def fill_gallery(services: Services, count: int) -> list[str]:
    """Add one picture per minute, and boards with pictures from all times; returns picture ids, oldest first."""
    services.studio.submit("the tables are there", count=1)
    ids: list[str] = []
    with services.database.write() as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'images'")
        dropped = triggers.fetchall()
        for name, _ in dropped:
            db.execute(f"DROP TRIGGER {name}")
        columns = [*rows.image_row(next(pictures(1))), "number", "batch_id"]
        marks = ", ".join(f":{each}" for each in columns)
        filled = (
            rows.image_row(each) | {"number": number, "batch_id": f"batch-{number // BATCH}"}
            for number, each in enumerate(remembered(pictures(count), ids), start=1)
        )
        db.execute_many(f"INSERT INTO images ({', '.join(columns)}) VALUES ({marks})", filled)
        rebuild_text_index(db)
        for _, sql in dropped:
            db.execute(sql)
    dice = random.Random(2)
    for number in range(BOARDS):
        services.studio.boards.create(f"board {number}", dice.sample(ids, min(ON_BOARD, count // 2)))
    services.database.upkeep()
    return ids


def pictures(count: int) -> Iterator[Image]:
    dice = random.Random(1)
    start = datetime.now(UTC) - timedelta(minutes=count)
    rare = {1 + each * count // 10 for each in range(10)}
    for number in range(count):
        few = number in rare
        width, height = dice.choice(((512, 512), (768, 512), (512, 768)))
        model = "rare" if few else dice.choice(("starter", "sd15", "sdxl", "flux"))
        params = Params(prompt(dice, few), "", model, width, height, 20, 7.0, "Euler a", dice.randrange(2**32))
        at = utc_text(start + timedelta(minutes=number))
        image_id = new_id()
        trashed = at if number % 50 == 7 else None
        yield Image(
            image_id,
            new_id(),
            f"{image_id}.png",
            params,
            width,
            height,
            300_000,
            at,
            2.0,
            dice.random() < 0.02,
            trashed,
        )


def prompt(dice: random.Random, few: bool) -> str:
    if dice.random() < 0.01 and not few:
        return CHINESE
    pick = dice.choice
    words = f"a {pick(KINDS)} {RARE if few else pick(SUBJECTS)} {pick(PLACES)}, {pick(STYLES)}"
    tail = ", highly detailed, 8k" if few or dice.random() < 2 / 3 else ""
    return f"{words}, {', '.join(dice.sample(TAILS, 3))}{tail}, no. {dice.randrange(10**6)}"


def remembered(images: Iterator[Image], ids: list[str]) -> Iterator[Image]:
    for each in images:
        ids.append(each.id)
        yield each


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


@contextmanager
def web_process(services: Services) -> Iterator[tuple[int, str]]:
    """Start a web process and wait until it answers: (process id, URL). It is stopped at the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = replace(services.settings, port=port).child_environ()
    with tempfile.TemporaryFile() as log:
        web = subprocess.Popen([sys.executable, "-m", "diffusion_local.web"], env=environ, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=60) as client:
                awaited(client)
            yield web.pid, url
        finally:
            web.terminate()
            web.wait(20)


def awaited(client: httpx.Client) -> None:
    """Wait until the server answers, at most two minutes; raises the last httpx.HTTPError."""
    deadline = time.monotonic() + 120
    while True:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


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


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"p50": round(cuts[9] * 1000, 1), "p95": round(cuts[18] * 1000, 1), "n": len(seconds)}


if __name__ == "__main__":
    go_offline(Path(tempfile.mkdtemp(prefix="gradio-")))
    main()
