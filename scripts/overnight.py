"""A long list overnight, while its worker is killed repeatedly: checks that every picture is made once, in order.

    python scripts/overnight.py --prompts 2000 --kills 12 --alike 8 --people 40 --record FILE.json
    python scripts/overnight.py --engine diffusers --prompts 100 --kills 4 --alike 4 --people 8

The list mixes sizes and steps, so that estimates have something to be wrong about; ``--alike`` in a row share a pass,
and ``--people`` interactive jobs come in between. After each kill the worker must go on with what it had begun. Exit
status 1 if any promise was broken. Needs the `test` extra (psutil).
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
from statistics import median
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
POLL_SECONDS = 0.1


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
    parser.add_argument("--alike", type=int, default=1, help="pictures in a row that may share a pass, and its size")
    parser.add_argument("--people", type=int, default=0, help="interactive jobs that come during the night")
    parser.add_argument("--step-seconds", type=float, default=0.005, help="of the fake engine")
    parser.add_argument("--seconds", type=float, default=3000.0, help="it is given up then")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def run(options: argparse.Namespace, home: Path) -> tuple[Audit, dict[str, Any]]:
    settings = Settings.load(
        {}, home=home, engine=options.engine, port=0, fake_step_seconds=options.step_seconds, device="cpu", threads=1,
        disk_reserve_mb=50, batch_size=str(options.alike),
    )  # fmt: skip
    scene = Scene(open_services(settings), second=False)
    services = scene.services
    try:
        receipt = services.studio.lists.submit(night(options), "jsonl", name="night")
        began = time.monotonic()
        scene.start()
        kills, people = until_done(scene, receipt.batch_id, options)
        seconds = time.monotonic() - began
        jobs = services.studio.jobs(batch_id=receipt.batch_id, limit=1000)
        while len(jobs) < receipt.count:
            jobs += services.studio.jobs(batch_id=receipt.batch_id, limit=1000, before=jobs[-1].id)
        report = services.studio.reports.batch(receipt.batch_id).to_dict()
        error = estimate_error(services.database, receipt.batch_id)
        scene.stop()
        found = audit(settings, Ledger({job.id: job.params.prompt for job in jobs} | people))
    finally:
        scene.end()
    resumed = check_order(found, services, receipt.batch_id)
    accepted = f"{len(people)} interactive jobs were accepted"
    found.check(len(people) == options.people, accepted)
    done = sum(job.state is State.DONE for job in jobs)
    found.check(done == receipt.count, f"{receipt.count - done} pictures were not made")
    figures = {
        "prompts": receipt.count,
        "seconds": round(seconds, 1),
        "kills": kills,
        "resumed_at_the_next_picture": resumed,
        "estimate_of_a_picture": {key: value and round(value, 3) for key, value in asdict(error).items()},
        "passes": passes(services, receipt.batch_id),
        "interactive": waits(services, list(people)),
        **found.counts,
        "report": {key: value for key, value in report.items() if key not in ("pictures", "newest", "batches")},
        "violations": found.violations,
    }
    return found, figures


def night(options: argparse.Namespace) -> str:
    lot = random.Random(options.seed)
    lines = []
    for number in range(options.prompts):
        if number % options.alike == 0:
            (width, height), steps = lot.choice(SIZES), lot.choice(STEPS)
        prompt = f"{lot.choice(WORDS)} number {number}"
        settings = {"prompt": prompt, "seed": number, "width": width, "height": height, "steps": steps}
        lines.append(json.dumps(settings))
    return "\n".join(lines)


def until_done(scene: Scene, batch_id: str, options: argparse.Namespace) -> tuple[int, dict[str, str]]:
    """Kill the worker, and submit an interactive job, each time that another part of the list is done, at a random
    moment; wait for the end. Returns the kills, and the prompts of the interactive jobs by id.
    """
    lot = random.Random(options.seed)
    deadline = time.monotonic() + options.seconds
    kills, people = 0, {}
    while time.monotonic() < deadline:
        progress = scene.services.studio.batches.get(batch_id)
        ended = sum(progress.counts[state] for state in FINAL)
        if ended == progress.batch.count and not scene.services.view.unfinished(list(people)):
            break
        if len(people) < options.people and ended > (len(people) + 0.5) * progress.batch.count / options.people:
            prompt = f"somebody waits for {len(people)}"
            receipt = scene.services.studio.submit(prompt, seed=len(people), width=128, height=128, steps=4)
            people |= dict.fromkeys(receipt.job_ids, prompt)
        if kills < options.kills and ended > (kills + 0.5) * progress.batch.count / options.kills:
            time.sleep(lot.uniform(0, 0.5))
            for worker in scene.workers():
                try:
                    worker.kill()
                    kills += 1
                except psutil.NoSuchProcess:
                    continue
        time.sleep(POLL_SECONDS)
    return kills, people


def passes(services: Services, batch_id: str) -> dict[str, int]:
    """Pictures of the list by the size of their pass."""
    with services.database.read() as db:
        query = "SELECT together, count(*) FROM jobs WHERE batch_id = ? AND state = 'done' GROUP BY together"
        return {str(size): count for size, count in db.execute(query, [batch_id]).fetchall()}


def waits(services: Services, job_ids: list[str]) -> dict[str, Any]:
    """Interactive jobs: how many began while a pass of the list was under way, and seconds from submit to start."""
    inside, seconds = 0, []
    with services.database.read() as db:
        for job_id in job_ids:
            created, began = db.execute("SELECT created_at, started_at FROM jobs WHERE id = ?", [job_id]).fetchone()
            aside = "SELECT 1 FROM jobs WHERE lane = 1 AND started_at < ? AND finished_at > ? LIMIT 1"
            inside += db.execute(aside, [began, began]).fetchone() is not None
            seconds.append((datetime.fromisoformat(began) - datetime.fromisoformat(created)).total_seconds())
    waited = {"median": round(median(seconds), 3), "most": round(max(seconds), 3)} if seconds else None
    return {"jobs": len(job_ids), "began_inside_a_pass": inside, "seconds_until_start": waited}


def check_order(found: Audit, services: Services, batch_id: str) -> int:
    """After each loss of a worker what it had begun comes next, in its order. How often that was so."""
    db = sqlite3.connect(services.settings.database_file)
    events = db.execute(
        "SELECT job_events.job_id, job_events.state, job_events.note, jobs.idx FROM job_events "
        "JOIN jobs ON jobs.id = job_events.job_id WHERE jobs.batch_id = ? ORDER BY job_events.id",
        [batch_id],
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
        f"--kills {options.kills} --alike {options.alike} --people {options.people} "
        f"--step-seconds {options.step_seconds} --seconds {options.seconds:g}",
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "load_1_min": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
