"""Accuracy of the forecast of a list's end, made after its first pictures: several nights on a simulated clock.

    python scripts/bench_clock.py [--nights 5] [--prompts 2000] [--record scripts/results/clock.json]

Stores, queue order, pass sizes and estimates are the product's own; a simulated machine replaces worker and engine and
decides how long a picture takes. Kills, interactive jobs and rests occur at random. Exit status 1 if a pattern exceeds
its error bound: 20 % on its first night, 10 % in the median of all nights.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch.slots import WORKER_LOST
from diffusion_local.domain import Batch, Image, Job, Lane, new_id, utc_text
from diffusion_local.gallery.files import key_for
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind
from diffusion_local.queue.batches import FORECAST_PICTURES
from diffusion_local.queue.estimates import JobTimings, Work
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.settings import Settings
from diffusion_local.worker.ladder import PassSizes

SLOT = "gpu0"
FIRST_BOUND, BOUND = 0.20, 0.10
DAY = timedelta(days=1)
WORDS = ("a lighthouse", "two owls", "a red apple", "rain on glass", "a paper boat", "moss", "an old map")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The jobs and events of a kind of night. Times in seconds; ``*_every``: mean interval between events, 0: never."""

    models: tuple[str, ...] = ("starter",)
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    steps: tuple[int, ...] = (20,)
    #: Number of consecutive pictures with the same settings.
    alike: int = 1
    kills_every: float = 0.0
    restart: float = 25.0
    people_every: float = 0.0
    rests_every: float = 0.0
    rest: float = 180.0
    #: Additional time of the first pass of each size and kind after the start, as for capturing CUDA graphs.
    warm_up: float = 0.0
    #: Whether events occur at nearly equal intervals instead of at random.
    regular: bool = False


SIDES = ((1024, 1024), (1024, 768), (768, 768))
PATTERNS = {
    "one kind, in passes": Pattern(sizes=((1024, 1024),), alike=10**6),
    "mixed sizes and steps": Pattern(sizes=SIDES, steps=(12, 20, 30)),
    "two models in turns, short runs": Pattern(models=("starter", "second"), sizes=((1024, 1024),), alike=3),
    "kills": Pattern(sizes=SIDES, steps=(20, 30), alike=4, kills_every=700.0),
    "kills and warm-ups": Pattern(sizes=SIDES, steps=(20, 30), alike=8, kills_every=700.0, warm_up=6.0),
    "kills, people, rests": Pattern(
        models=("starter", "second"), sizes=((1024, 1024),), alike=6, kills_every=700.0, people_every=400.0,
        rests_every=1200.0, rest=120.0,
    ),
}  # fmt: skip


class Clock:
    """The time of the simulated machine."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 2, 22, tzinfo=UTC)

    def text(self) -> str:
        return utc_text(self.now)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@contextmanager
def simulated(clock: Clock) -> Iterator[None]:
    """Have the stores read this clock."""
    readers = [
        each for name, each in sys.modules.items() if name.startswith("diffusion_local") and "utc_now" in vars(each)
    ]
    own = [each.utc_now for each in readers]
    for each in readers:
        each.utc_now = clock.text  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for each, function in zip(readers, own, strict=True):
            each.utc_now = function  # type: ignore[attr-defined]


class Machine:
    """A simulated worker and engine, which claims and finishes jobs as the real runner does."""

    def __init__(self, services: Services, clock: Clock, pattern: Pattern, seed: int) -> None:
        self.services, self.clock, self.pattern = services, clock, pattern
        self.lot = random.Random(seed)
        self.loaded = ""
        self.kills = self.people = self.rests = 0
        self.events = {
            name: self._next(every)
            for name, every in (
                ("kill", pattern.kills_every), ("person", pattern.people_every), ("rest", pattern.rests_every)
            )
        }  # fmt: skip
        self._start()

    def _next(self, every: float) -> datetime:
        if not every:
            return datetime.max.replace(tzinfo=UTC)
        seconds = self.lot.uniform(0.9, 1.1) * every if self.pattern.regular else self.lot.expovariate(1 / every)
        return self.clock.now + timedelta(seconds=seconds)

    def _start(self) -> None:
        self.loaded = ""
        self.warm: set[tuple[Work, int]] = set()
        self.services.workers.register(SLOT, 1, "a machine of numbers")
        self.sizes = PassSizes("auto", True, self.services.view.shares)
        self.services.workers.update(SLOT, "idle")

    def share(self, params: Params, together: int) -> float:
        """Seconds per picture in a pass of ``together``: shorter in larger passes, with random noise."""
        pace = {"starter": 1.4, "second": 2.2}[params.model]
        gain = 0.65 + 0.35 / min(together, 8)
        noise = self.lot.lognormvariate(0, 0.05) * (4 if self.lot.random() < 0.003 else 1)
        return (0.05 + pace * params.steps * params.width * params.height / 1e7) * gain * noise

    def work(self, batch_id: str) -> None:
        """Run passes until the batch is done."""
        while sum(self.services.view.counts([batch_id])[batch_id][state] for state in ("queued", "running")):
            if self.clock.now >= self.events["rest"]:
                self._rest()
            jobs = self.services.jobs.claim(SLOT, self.loaded)
            size = self.sizes.size_for(jobs[0])
            if size > 1:
                jobs += self.services.jobs.claim(SLOT, jobs[0].params.model, size - 1, jobs[0].claim)
            self.run(jobs)

    def run(self, jobs: list[Job]) -> None:
        """Run one pass; a kill ends it, an interactive job interrupts it."""
        params, together = jobs[0].params, len(jobs)
        expected = self.services.view.expected(params, self.loaded, together)
        load = self.lot.uniform(7, 9) if self.loaded != params.model else 0.0
        self.loaded = params.model
        share = self.share(params, together)
        if (kind := (Work.of_params(params), together)) not in self.warm:
            share += self.pattern.warm_up / together
            self.warm.add(kind)
        left = load + share * together
        while jobs[0].lane is Lane.BATCH and (name := self._first_event(left)) is not None:
            before = max(0.0, (self.events[name] - self.clock.now).total_seconds())
            self.clock.wait(before)
            left -= before
            if name == "kill":
                self._kill()
                return
            self._serve_person()
            if self.loaded != params.model:
                left += self.lot.uniform(7, 9)
                self.loaded = params.model
        self.clock.wait(left + 0.02)
        warm_up = self.sizes.record(params, together, share)
        self.services.workers.update(SLOT, "busy", self.loaded)
        for job in jobs:
            timings = JobTimings(share, load, expected, "resident", together, warm_up)
            image = Image(
                job.id, job.id, key_for(job.id, job.created_at), job.params, 64, 64, 1, self.clock.text(), share
            )
            self.services.jobs.finish(job.claim, image, timings)
            self.services.batches.note_forecast(job.batch_id)
            load = 0.0
        self.clock.wait(self.lot.uniform(0.01, 0.03) + 0.005 * together)

    def _first_event(self, seconds: float) -> str | None:
        name = min(("kill", "person"), key=lambda each: self.events[each])
        return name if self.events[name] < self.clock.now + timedelta(seconds=seconds) else None

    def _kill(self) -> None:
        self.kills += 1
        self.events["kill"] = self._next(self.pattern.kills_every)
        self.clock.wait(1)
        self.services.workers.lost(SLOT)
        self.services.jobs.recover(SLOT, WORKER_LOST)
        self.clock.wait(self.lot.uniform(0.8, 1.2) * self.pattern.restart)
        self._start()

    def _serve_person(self) -> None:
        self.people += 1
        self.events["person"] = self._next(self.pattern.people_every)
        submit(self.services, self.clock, [wish(self.lot, self.pattern, "somebody waits")], Lane.INTERACTIVE)
        self.run(self.services.jobs.claim(SLOT, self.loaded, urgent=True))

    def _rest(self) -> None:
        self.rests += 1
        self.events["rest"] = self._next(self.pattern.rests_every)
        self.services.control.set_rest("too hot")
        self.services.workers.update(SLOT, "idle", self.loaded)
        self.clock.wait(self.lot.uniform(0.8, 1.2) * self.pattern.rest)
        self.services.control.set_rest("")


def wish(lot: random.Random, pattern: Pattern, prompt: str) -> Params:
    width, height = lot.choice(pattern.sizes)
    steps = lot.choice(pattern.steps)
    return Params(
        prompt, "", lot.choice(pattern.models), width, height, steps, 7.5, "Euler", lot.randrange(2**31), Kind.TXT2IMG
    )


def submit(services: Services, clock: Clock, params: list[Params], lane: Lane) -> str:
    batch = Batch(new_id(), "night", "", lane, len(params), clock.text())
    return services.jobs.insert_batch(batch, new_jobs(batch, params), None, 10**6)[0]


def night(services: Services, clock: Clock, pattern: Pattern, seed: int, prompts: int) -> dict[str, Any]:
    """Run one night from submit to the last picture; returns the forecast with its error, and counts of events."""
    lot = random.Random(seed)
    params: list[Params] = []
    while len(params) < prompts:
        like = wish(lot, pattern, "")
        params += [
            replace(like, prompt=f"{lot.choice(WORDS)} number {len(params) + place}", seed=len(params) + place)
            for place in range(min(pattern.alike, prompts - len(params)))
        ]
    batch_id = submit(services, clock, params, Lane.BATCH)
    machine = Machine(services, clock, pattern, seed)
    machine.work(batch_id)
    services.workers.update(SLOT, "idle", machine.loaded)
    forecast = services.studio.reports.batch(batch_id).forecast
    assert forecast is not None
    return asdict(forecast) | {"kills": machine.kills, "people": machine.people, "rests": machine.rests}


def nights(pattern: Pattern, home: Path, count: int, prompts: int, seed: int = 1) -> list[dict[str, Any]]:
    """Run consecutive nights of one pattern, in a home that starts without history."""
    clock = Clock()
    services = open_services(Settings.load({}, home=home, engine="fake", port=0, disk_reserve_mb=50))
    began, found = clock.now, []
    with simulated(clock):
        for number in range(count):
            clock.now = max(clock.now, began + number * DAY)
            found.append(night(services, clock, pattern, seed * 100 + number, prompts))
    services.database.close()
    return found


def judged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors of the first night, the median and the worst, and whether they keep the bounds."""
    errors = [each["error"] for each in found]
    ok = errors[0] <= FIRST_BOUND and median(errors) <= BOUND
    return {"first": round(errors[0], 3), "median": round(median(errors), 3), "worst": round(max(errors), 3), "ok": ok}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pattern", choices=list(PATTERNS), action="append")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    run_as(LOCAL)
    memory = Path("/dev/shm")
    results: dict[str, Any] = {}
    for name in options.pattern or PATTERNS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as home:
            found = nights(PATTERNS[name], Path(home), options.nights, options.prompts, options.seed)
        seconds = round(time.monotonic() - began, 1)
        shown = [{key: round(value, 3) for key, value in each.items()} for each in found]
        results[name] = judged(found) | {"nights": shown}
        print(name, {key: value for key, value in results[name].items() if key != "nights"}, f"{seconds} s", flush=True)
        for each in shown:
            print("   ", each, flush=True)
    if options.record:
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"scripts/bench_clock.py --nights {options.nights} --prompts {options.prompts}",
            "version": __version__,
            "python": platform.python_version(),
            "told_after_pictures": FORECAST_PICTURES,
        }
        options.record.write_text(json.dumps(about | {"patterns": results}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(each["ok"] for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
