"""Space that a database releases after many jobs were deleted, and how long submits wait meanwhile.

    python scripts/bench_space.py [--jobs 32000] [--record scripts/results/upkeep.json]

`new` is a database with incremental vacuum, shrunk step by step; `old` is one without, which is rewritten once. A
second process submits continuously; its times are recorded for three quiet seconds before, and while space is released.
A flood of log lines is written and rotated, too.
"""

import argparse
import logging
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_record import conditions, percentiles, publish

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.db import upkeep
from diffusion_local.domain import Batch, Lane, new_id, utc_now
from diffusion_local.options.table import Params
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.settings import Settings
from diffusion_local.system import logs

BATCHES = 32
PROMPT = "a red apple on a wooden table, soft light from a window, still life, "
LOG_LINES = 150_000
SUBMIT = """
import sys, time
from pathlib import Path
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.settings import Settings
run_as(LOCAL)
services = open_services(Settings.load({}, home=Path(sys.argv[1]), engine="fake"))
while True:
    began, at = time.perf_counter(), time.time()
    services.studio.submit("x", width=128, height=128, steps=2)
    print(at, time.perf_counter() - began, flush=True)
    time.sleep(0.01)
"""


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=32_000)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = {
        **conditions(),
        "sqlite": sqlite3.sqlite_version,
        "new": database(options.jobs, old=False),
        "old": database(options.jobs, old=True),
        "logs": flood(),
    }
    publish(record, options.record)


def database(jobs: int, old: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.load({}, home=Path(home) / "home", engine="fake")
        services = open_services(settings)
        fill(services, jobs)
        if old:
            as_before(services)
        forget(services)
        figures: dict[str, Any] = {"jobs": jobs, "mb_before": megabytes(settings)}
        with subprocess.Popen(
            [sys.executable, "-c", SUBMIT, str(settings.home)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            child.stdout.readline()  # the child has started
            time.sleep(3)
            began, clock = time.time(), time.perf_counter()
            if old:
                upkeep.rewrite(services.database)
            else:
                figures["steps_ms"] = durations(upkeep.release_pages(services.database, 600))
            upkeep.truncate_log(services.database)
            figures["seconds"] = round(time.perf_counter() - clock, 2)
            ended = time.time()
            time.sleep(2)  # until the last waiting submit is done
            child.kill()
            submits = [(float(at), float(took)) for at, took in map(str.split, child.stdout.read().splitlines()[:-1])]
        figures["submit_quiet_ms"] = durations([took for at, took in submits if at < began])
        figures["submit_meanwhile_ms"] = durations([took for at, took in submits if at + took > began and at < ended])
        upkeep.truncate_log(services.database)
        figures["mb_after"] = megabytes(settings)
        figures["mb_free_after"] = round(upkeep.measure(services.database).free / 1e6, 2)
        services.database.close()
        return figures


def fill(services: Services, jobs: int) -> None:
    for number in range(BATCHES):
        batch = Batch(new_id(), f"batch {number}", "", Lane.BATCH, jobs // BATCHES, utc_now())
        each = [
            Params(f"{PROMPT}{place}", "", "starter", 256, 256, 12, 3.5, "Euler a", place)
            for place in range(jobs // BATCHES)
        ]
        services.jobs.insert_batch(batch, new_jobs(batch, each, 0), None, jobs + 1)
    services.studio.queue.cancel(waiting=True)


def as_before(services: Services) -> None:
    with services.database.outside_transaction() as conn:
        conn.execute("PRAGMA auto_vacuum = NONE")
        conn.execute("VACUUM")
    upkeep.truncate_log(services.database)


def forget(services: Services) -> None:
    services.studio.queue.forget(ended=True)
    upkeep.truncate_log(services.database)


def megabytes(settings: Settings) -> float:
    return round(sum(path.stat().st_size for path in settings.home.glob("app.db*")) / 1e6, 2)


def flood() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.load({}, home=Path(home))
        logs.start(settings, "web", terminal=False)
        began = time.perf_counter()
        for number in range(LOG_LINES):
            logging.getLogger("bench").error("socket.accept() out of system resource %d: too many open files", number)
        took = time.perf_counter() - began
        written = sum(path.stat().st_size for path in settings.logs.iterdir())
        logging.shutdown()
        return {
            "lines": LOG_LINES,
            "us_a_line": round(took / LOG_LINES * 1e6, 1),
            "mb_on_disk": round(written / 1e6, 2),
        }


def durations(seconds: list[float]) -> dict[str, float]:
    """Percentiles of any number of durations."""
    if not seconds:
        return {"n": 0}
    return percentiles(seconds if len(seconds) > 1 else seconds * 2, 2) | {"n": len(seconds)}


if __name__ == "__main__":
    main()
