"""A night with a long list, whose worker is killed again and again: is every picture made once, and in its place?

    python scripts/overnight.py --prompts 2000 --kills 12 --record scripts/results/overnight-fake.json
    python scripts/overnight.py --engine diffusers --prompts 60 --kills 4

The list mixes sizes and steps, so that estimates have something to be wrong about. After each kill the worker must go
on with the picture that it had begun. Exit status 1 if any promise was broken. Needs the `test` extra (psutil).
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from chaos_audit import Audit, Ledger, audit, summary
from chaos_cast import Scene
from estimate_error import estimate_error

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import FINAL, State
from diffusion_local.settings import Settings

SIZES = [(128, 128), (192, 128), (256, 256)]
STEPS = [2, 4, 6]
WORDS = ["a lighthouse", "two owls", "a red apple", "rain on glass", "a paper boat", "moss", "an old map"]
LOOK_SECONDS = 0.1


def main() -> int:
    run_as(LOCAL)
    options = parse()
    home = Path(tempfile.mkdtemp(prefix="overnight-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    try:
        found, figures = run(options, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    print(summary(found.violations))
    if options.record:
        options.record.write_text(json.dumps(conditions(options) | figures, indent=2) + "\n", encoding="utf-8")
    return 1 if found.violations else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["fake", "diffusers"], default="fake")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--step-seconds", type=float, default=0.005, help="of the fake engine")
    parser.add_argument("--seconds", type=float, default=3000.0, help="it is given up then")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def run(options: argparse.Namespace, home: Path) -> tuple[Audit, dict[str, Any]]:
    settings = Settings.load(
        {}, home=home, engine=options.engine, port=0, fake_step_seconds=options.step_seconds, device="cpu", threads=1,
        disk_reserve_mb=50,
    )  # fmt: skip
    scene = Scene(open_services(settings), second=False)
    services = scene.services
    try:
        receipt = services.studio.lists.submit(night(options), "jsonl", name="night")
        began = time.monotonic()
        scene.start()
        kills, forecast = until_done(scene, receipt.batch_id, options)
        seconds = time.monotonic() - began
        ended = datetime.now(UTC)
        jobs = services.studio.jobs(batch_id=receipt.batch_id, limit=1000)
        while len(jobs) < receipt.count:
            jobs += services.studio.jobs(batch_id=receipt.batch_id, limit=1000, before=jobs[-1].id)
        report = services.studio.reports.batch(receipt.batch_id).to_dict()
        error = estimate_error(services.database, receipt.batch_id)
        scene.stop()
        found = audit(settings, Ledger({job.id: job.params.prompt for job in jobs}))
    finally:
        scene.end()
    resumed = check_order(found, services)
    done = sum(job.state is State.DONE for job in jobs)
    found.check(done == receipt.count, f"{receipt.count - done} pictures were not made")
    figures = {
        "prompts": receipt.count,
        "seconds": round(seconds, 1),
        "kills": kills,
        "resumed_at_the_next_picture": resumed,
        "estimate_of_a_picture": {key: value and round(value, 3) for key, value in asdict(error).items()},
        "forecast_of_the_end": forecast.told(ended) if forecast else None,
        **found.counts,
        "report": {key: value for key, value in report.items() if key not in ("pictures", "newest", "batches")},
        "violations": found.violations,
    }
    return found, figures


def night(options: argparse.Namespace) -> str:
    lot = random.Random(options.seed)
    lines = []
    for number in range(options.prompts):
        width, height = lot.choice(SIZES)
        prompt = f"{lot.choice(WORDS)} number {number}"
        settings = {"prompt": prompt, "seed": number, "width": width, "height": height, "steps": lot.choice(STEPS)}
        lines.append(json.dumps(settings))
    return "\n".join(lines)


class Forecast:
    """What was said of the end when a quarter was done."""

    def __init__(self, done_at: str) -> None:
        self.said_at, self.done_at = datetime.now(UTC), datetime.fromisoformat(done_at)

    def told(self, ended: datetime) -> dict[str, float]:
        left = (ended - self.said_at).total_seconds()
        said = (self.done_at - self.said_at).total_seconds()
        off = abs(said - left) / left
        return {"said_seconds": round(said, 1), "took_seconds": round(left, 1), "off": round(off, 3)}


def until_done(scene: Scene, batch_id: str, options: argparse.Namespace) -> tuple[int, Forecast | None]:
    """Kill the worker each time that another part of the list is done, at a random moment; wait for the end."""
    lot = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    kills, forecast = 0, None
    while time.monotonic() < deadline:
        progress = scene.services.studio.batches.get(batch_id)
        ended = sum(progress.counts[state] for state in FINAL)
        if ended == progress.batch.count:
            return kills, forecast
        if forecast is None and ended >= progress.batch.count / 4 and progress.done_at:
            forecast = Forecast(progress.done_at)
        if kills < options.kills and ended > (kills + 0.5) * progress.batch.count / options.kills:
            time.sleep(lot.uniform(0, 0.5))
            for worker in scene.workers():
                try:
                    worker.kill()
                    kills += 1
                except psutil.NoSuchProcess:
                    continue
        time.sleep(LOOK_SECONDS)
    return kills, forecast


def check_order(found: Audit, services: Services) -> int:
    """After each loss of a worker what it had begun comes next, in its order. How often that was so."""
    db = sqlite3.connect(services.settings.database_file)
    events = db.execute(
        "SELECT job_events.job_id, job_events.state, job_events.note, jobs.idx FROM job_events "
        "JOIN jobs ON jobs.id = job_events.job_id ORDER BY job_events.id"
    ).fetchall()
    db.close()
    resumed, expected, highest = 0, [], -1
    for job_id, state, note, index in events:
        if state == "queued" and note == "worker lost":
            expected.append((index, job_id))
        elif state == "running" and expected:
            _, first = min(expected)
            found.check(job_id == first, f"after a loss {job_id} ran, and not {first}")
            expected.remove(min(expected))
            resumed += job_id == first
        elif state == "running":
            found.check(index == highest + 1, f"picture {index} was begun after {highest}")
        highest = max(highest, index if state == "running" else -1)
    return resumed


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"scripts/overnight.py --engine {options.engine} --prompts {options.prompts} "
        f"--kills {options.kills} --step-seconds {options.step_seconds} --seconds {options.seconds:g}",
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "load_1_min": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
