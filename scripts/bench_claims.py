"""Duration of a claim in a long queue of mixed owners, models, priorities and time windows, and of a page of batches.

    python scripts/bench_claims.py [--jobs 100000] [--claims 500] [--record scripts/results/claims.json]

Each claimed job is then finished, as a worker would do; that is not timed. `alone` is the same with one owner, model
and priority and no window. The record also counts claims per owner and changes of model.
"""

import argparse
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_record import conditions, percentiles, publish

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Batch, Failure, Lane, new_id, utc_now
from diffusion_local.options.table import Params
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.settings import Settings

OWNERS, MODELS, BATCHES = 8, 5, 40
LOOKS = 20


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--claims", type=int, default=500)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = {
        **conditions(),
        "sqlite": sqlite3.sqlite_version,
        "alone": measured(options.jobs, options.claims, mixed=False),
        "mixed": measured(options.jobs, options.claims, mixed=True),
    }
    publish(record, options.record)


def measured(jobs: int, claims: int, mixed: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        services = open_services(Settings.load({}, home=Path(home), engine="fake", max_queued=2 * jobs))
        fill(services, jobs, mixed)
        figures: dict[str, Any] = {"jobs": jobs}
        if mixed:
            figures |= {"owners": OWNERS, "models": MODELS, "batches": BATCHES, "priorities": 3, "windows": 6}
        seconds, taken = claim(services, claims)
        figures["claim_ms"] = percentiles(seconds, 2)
        figures["idle_look_ms"] = percentiles(idle_looks(services), 2)
        figures["snapshot_ms"] = percentiles([timed(services.studio.snapshot) for _ in range(LOOKS)], 2)
        figures["page_of_20_batches_ms"] = percentiles([timed(services.studio.batches.page) for _ in range(LOOKS)], 2)
        figures["pictures_of_owners"] = dict(sorted(Counter(owner for owner, _ in taken).items()))
        models = [model for _, model in taken]
        figures["changes_of_model"] = sum(a != b for a, b in pairwise(models))
        services.database.close()
        return figures


def fill(services: Services, jobs: int, mixed: bool) -> None:
    """Submit batches of equal length. A sixth of the mixed ones may start at any time; the others wait for their
    window.
    """
    closed = datetime.now(UTC).astimezone(services.settings.zone) + timedelta(hours=2)
    for number in range(BATCHES):
        window = ""
        if mixed and number % 6:
            opens = closed + timedelta(hours=number % 6)
            window = f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}"
        owner = f"owner {number % OWNERS}" if mixed else ""
        batch = Batch(new_id(), f"batch {number}", owner, Lane.BATCH, jobs // BATCHES, utc_now(), window=window)
        each = [
            Params("a red apple", "", f"model {place % MODELS if mixed else 0}", 256, 256, 12, 3.5, "Euler a", place)
            for place in range(jobs // BATCHES)
        ]
        priority = -(number % 3) if mixed and number % 6 else 0
        services.jobs.insert_batch(batch, new_jobs(batch, each, priority), None, 2 * jobs)


def claim(services: Services, claims: int) -> tuple[list[float], list[tuple[str, str]]]:
    seconds, taken, loaded = [], [], ""
    for _ in range(claims):
        began = time.perf_counter()
        job = services.jobs.claim_next("cpu0", loaded)
        seconds.append(time.perf_counter() - began)
        if job is None:
            raise RuntimeError("nothing was due")
        services.jobs.fail(job.claim, Failure("bench", "not made"))
        taken.append((job.owner, job.params.model))
        loaded = job.params.model
    return seconds, taken


def idle_looks(services: Services) -> list[float]:
    """Duration of claim attempts when no job is due, which an idle worker makes every two seconds."""
    services.studio.queue.set_window("00:00-00:01" if datetime.now(services.settings.zone).hour else "12:00-12:01")
    looks = [timed(lambda: services.jobs.claim_next("cpu0")) for _ in range(LOOKS)]
    services.studio.queue.set_window("")
    return looks


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
