"""A list that mixes everything that shapes a picture, made twice: undisturbed, and with the worker killed.

    python scripts/shape_kills.py --record scripts/results/shape-kills.json

The list goes round the features of ``shape_cast.py``; both runs are side by side. A kill is a SIGKILL of the worker's
process while a job of the wanted feature is in the wanted phase: early (its first step has not ended), middle, or late
(its last step has ended: it is decoded, cut out and saved). Every feature is killed in every phase unless ``--kills``
allows fewer; each job is hit once at most, as a second time would end it. Afterwards every job must have one picture,
with the same pixels and options as in the undisturbed run. Then `diffusion-local captions` describes the pictures of
the first lines, and is killed as well: each must have the caption of the undisturbed run, by which the gallery's search
finds it. Workers are forked from a process that has imported the program. Exit status 1 if anything differs or a wanted
kill did not hit.
"""

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from chaos_audit import audit
from PIL import Image as PIL
from shape_cast import REPOSITORY, SIZE, conditions, features, helped, language_model, open_home

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services
from diffusion_local.domain import Job, State
from tests import forking

STEPS = 4
POLL_SECONDS = 0.01
PHASES = ("early", "middle", "late")
#: Longest pause before a kill in a phase: some hit the loading and others the first step; the decoding and the saving.
PAUSES = {"early": 0.5, "middle": 0.0, "late": 0.06}
#: Pictures that are described, by the word in their prompts. The command is killed before the first, at the middle one
#: and before the last.
CAPTIONS, DESCRIBED = 3, "sunset"
#: After the wanted number of captions, so that the process of the next one has begun.
CAPTION_SECONDS = 0.5
SUBJECTS = ("a red apple", "a lighthouse", "a blue vase", "a green tree", "a yellow boat")
#: What the process imports from which workers are forked.
forking.IMPORTS["shaping worker"] = (
    "diffusion_local.worker.__main__",
    "diffusion_local.worker.runner",
    "diffusion_local.engine.diffusers_engine",
    "diffusion_local.engine.upscale",
)


def submit(services: Services, mixed: dict[str, dict[str, Any]], count: int) -> dict[str, str]:
    """Submit the list; returns the feature of each job by its id, in the order of the list."""
    names = list(mixed)
    lines = []
    for number in range(count):
        options = {"prompt": SUBJECTS[number % len(SUBJECTS)], "steps": STEPS, "seed": number}
        options["prompt"] += f", {DESCRIBED}" * (number < CAPTIONS)
        options |= mixed[names[number % len(names)]]
        size = {} if "outpaint" in options or options.get("kind") == "upscale" else {"width": SIZE, "height": SIZE}
        lines.append(json.dumps(size | helped(services, options)))
    receipt = services.studio.lists.submit("\n".join(lines).encode(), "jsonl")
    ids = job_ids(services)
    assert len(ids) == receipt.count == count, receipt
    return {job_id: names[number % len(names)] for number, job_id in enumerate(ids)}


def job_ids(services: Services) -> list[str]:
    with services.database.read() as db:
        return [row[0] for row in db.execute("SELECT id FROM jobs ORDER BY position, id").fetchall()]


class Worker:
    """A worker process of the slot cpu0, started anew whenever it is gone."""

    def __init__(self, services: Services) -> None:
        self._environ = services.settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)}
        self._log = services.settings.home / "worker.log"
        self.process: forking.Forked | None = None

    def keep(self) -> None:
        if self.process is None or self.process.poll() is not None:
            code = forking.main_of("diffusion_local.worker")
            self.process = forking.fork("shaping worker", code, "--slot", "cpu0", env=self._environ, log=self._log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()


class Hunt:
    """The kills that are wanted, by feature and phase, and those that have hit."""

    def __init__(self, jobs: dict[str, str], kills: int, seed: int) -> None:
        """``jobs``: feature by job id."""
        names = list(dict.fromkeys(jobs.values()))
        turns = [(name, PHASES[(place + turn) % 3]) for turn, (place, name) in product(range(3), enumerate(names))]
        self.wanted = turns[:kills]
        self.hit: dict[str, str] = {}  # phase by job
        self.missed = 0  # kills after the picture was saved
        self._jobs = jobs
        self._chance = random.Random(seed)

    def strike(self, services: Services, worker: Worker, running: list[Job]) -> None:
        """Kill the worker if a running job is of a wanted feature in a wanted phase."""
        if any(job.crashes for job in running):
            return  # a job that is lost twice has failed
        for job in running:
            phase = phase_of(job)
            aim = (self._jobs[job.id], phase)
            if job.worker is None or aim not in self.wanted:
                continue
            time.sleep(self._chance.uniform(0, PAUSES[phase]))
            if any(each.crashes for each in services.studio.jobs(state="running")):
                return  # it has begun another job meanwhile
            worker.kill()
            killed = services.jobs.get(job.id)
            if killed.state is not State.RUNNING:
                self.missed += 1
                return
            self.hit[job.id] = phase_of(killed)
            if (aim := (self._jobs[job.id], phase_of(killed))) in self.wanted:
                self.wanted.remove(aim)
            return

    def table(self) -> dict[str, dict[str, int]]:
        """Hits by feature and phase."""
        found = {name: dict.fromkeys(PHASES, 0) for name in self._jobs.values()}
        for job_id, phase in self.hit.items():
            found[self._jobs[job_id]][phase] += 1
        return found


def phase_of(job: Job) -> str:
    """A step is reported when it has ended; the last one always is."""
    return "early" if job.step == 0 else "late" if job.step >= job.params.total_steps else "middle"


def work(services: Services, count: int, hunt: Hunt | None, seconds: float) -> None:
    """Run the queue until every job has ended, killing workers meanwhile if there is a hunt."""
    worker = Worker(services)
    deadline, reported = time.monotonic() + seconds, -1
    try:
        while time.monotonic() < deadline:
            worker.keep()
            if hunt and hunt.wanted:
                hunt.strike(services, worker, services.studio.jobs(state="running"))
            counts = services.studio.snapshot(0, 0).counts
            done = count - counts[State.QUEUED] - counts[State.RUNNING]
            if done == count:
                break
            if hunt and done // 10 > reported:
                reported = done // 10
                print(f"{done} of {count} ended, {len(hunt.hit)} kills", file=sys.stderr, flush=True)
            time.sleep(POLL_SECONDS)
    finally:
        worker.kill()


def drawn(services: Services, ids: list[str]) -> dict[int, tuple[str, str, str]]:
    """By place in the list: hash of the pixels, hash of the options without ids of pictures, and flag."""
    found = {}
    images = services.images.of_jobs(ids)
    for place, job_id in enumerate(ids):
        if job_id not in images:
            continue
        image = images[job_id]
        with services.files.picture(image.key).open() as file, PIL.open(file) as picture:
            pixels = sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()
        found[place] = (pixels, sha256(image.params.to_json().encode()).hexdigest(), image.flag)
    return found


def describe(services: Services, killing: bool, seconds: float) -> tuple[dict[str, str], Counter[str]]:
    """Have the command describe pictures, perhaps killing it in between.

    Returns the captions by prompt and seed, and the number of kills that hit, by phase.
    """
    environ = services.settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)}
    deadline, hit = time.monotonic() + seconds, Counter[str]()
    marks = {"early": 0, "middle": CAPTIONS // 2, "late": CAPTIONS - 1} if killing else {}
    while time.monotonic() < deadline and len(captions(services)) < CAPTIONS:
        code, words = forking.main_of("diffusion_local"), ("captions", "--search", DESCRIBED)
        process = forking.fork("shaping worker", code, *words, env=environ, log=services.settings.home / "captions.log")
        try:
            for phase in list(marks)[:1]:
                enough = marks.pop(phase)
                while process.poll() is None and len(captions(services)) < enough:
                    time.sleep(POLL_SECONDS)
                time.sleep(CAPTION_SECONDS)
                hit[phase] += process.poll() is None
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(1.0, deadline - time.monotonic()))
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
    return captions(services), hit


def captions(services: Services) -> dict[str, str]:
    """Captions of the gallery by the prompt and seed of their picture."""
    page = services.studio.pictures.page(500)
    return {f"{each.params.prompt} {each.params.seed}": each.caption for each in page if each.caption}


def run(options: argparse.Namespace, folder: Path, helper: str) -> dict[str, Any]:
    calm = open_home(folder / "calm", prompt_helper_url=helper)
    hunted = open_home(folder / "hunted", like=calm, prompt_helper_url=helper)
    _, jobs = (submit(each, chosen(features(each), options), options.jobs) for each in (calm, hunted))
    hunt = Hunt(jobs, options.kills, options.seed)

    def make(services: Services, hunt: Hunt | None) -> tuple[float, Any, dict[str, str], Counter[str]]:
        """(seconds, pictures, captions, kills of the command for captions) of a home."""
        began = time.monotonic()
        work(services, options.jobs, hunt, options.seconds)
        seconds = time.monotonic() - began
        return seconds, drawn(services, job_ids(services)), *describe(services, hunt is not None, options.seconds)

    with ThreadPoolExecutor(1) as beside:
        undisturbed = beside.submit(copy_context().run, make, calm, None)
        disturbed_seconds, made, hunted_captions, caption_kills = make(hunted, hunt)
        calm_seconds, calm_pictures, calm_captions, _ = undisturbed.result()

    states = Counter(str(hunted.jobs.get(job_id).state) for job_id in jobs)
    violations = [f"calm: {each}" for each in audit(calm.settings).violations]
    violations += [f"hunted: {each}" for each in audit(hunted.settings).violations]
    violations += [f"no kill hit {name} {phase}" for name, phase in hunt.wanted]
    if len(calm_pictures) != options.jobs:
        violations.append(f"the undisturbed run made {len(calm_pictures)} pictures")
    names = list(jobs.values())
    violations += [
        f"line {place + 1} ({names[place]}): {'no picture' if place not in made else 'another picture'}"
        for place in range(options.jobs)
        if made.get(place) != calm_pictures.get(place)
    ]
    violations += [
        f"{names[place]}: {job.failure}" for place, job in enumerate(map(hunted.jobs.get, jobs)) if job.failure
    ]
    violations += caption_violations(hunted, hunted_captions, calm_captions)
    with hunted.database.read() as db:
        rows = db.scalar("SELECT count(*) FROM images")
    if rows != options.jobs:
        violations.append(f"{rows} pictures of {options.jobs} jobs")
    return {
        "jobs": options.jobs,
        "features": dict(Counter(names)),
        "kills": len(hunt.hit),
        "kills_by_feature": hunt.table() | {"captions": dict(caption_kills)},
        "kills_after_the_end": hunt.missed,
        "recovered_jobs": sum(hunted.jobs.get(job_id).crashes > 0 for job_id in jobs),
        "states": dict(states),
        "pictures": rows,
        "equal_pictures": sum(made.get(place) == calm_pictures.get(place) for place in range(options.jobs)),
        "captions": len(hunted_captions),
        "equal_captions": sum(calm_captions.get(key) == text for key, text in hunted_captions.items()),
        "incomplete": sum(flag == "incomplete" for _, _, flag in made.values()),
        "seconds_undisturbed": round(calm_seconds, 1),
        "seconds_with_kills": round(disturbed_seconds, 1),
        "violations": violations,
    }


def chosen(mixed: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The features to run; all of them by default."""
    return {name: each for name, each in mixed.items() if not options.features or name in options.features}


def caption_violations(services: Services, found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Captions that differ from those of the undisturbed run, or by which search does not find the picture."""
    violations = [] if len(expected) == CAPTIONS else [f"{len(expected)} captions of {CAPTIONS}"]
    for key, caption in expected.items():
        if found.get(key) != caption:
            violations.append(f"picture {key!r}: caption {found.get(key)!r} instead of {caption!r}")
        elif words := [each for each in caption.split() if each.isalnum()]:
            matches = services.studio.pictures.page(500, search=words[0])
            if key not in {f"{each.params.prompt} {each.params.seed}" for each in matches}:
                violations.append(f"picture {key!r}: search does not find it by {words[0]!r}")
    return violations


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--kills", type=int, default=1000, help="the most; by default one of each feature and phase")
    parser.add_argument("--seconds", type=float, default=3600.0, help="the most for each of the two runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--features", nargs="+", default=(), help="only these, by the names in the record")
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def main() -> int:
    run_as(LOCAL)
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="shape-kills-"))
    try:
        with language_model() as helper:
            figures = run(options, folder, helper)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    print(json.dumps(figures, indent=2))
    if options.record:
        options.record.write_text(json.dumps(conditions("shape_kills.py") | figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
