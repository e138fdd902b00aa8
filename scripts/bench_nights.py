"""Accuracy of the forecast of a list's end in real nights: server, worker, queue and engine as shipped, with kills.

    python scripts/bench_nights.py --home FOLDER --nights 5 --record scripts/results/nights-fake.json
    python scripts/bench_nights.py --home FOLDER --engine diffusers --device auto --prompts 2000 --record ...

`bench_clock.py` does this on a simulated clock, with many more pictures. A night is a list of two models in short runs
that share passes; interactive jobs, kills of the worker and rests come at random, or with ``--regular`` at nearly equal
intervals: in a short night chance alone moves the end by more than the bounds. All nights use one home, so that later
ones know what earlier ones took. ``--calls`` nights are run in one call, and the next call continues: other
load on the machine changes the real end, but not the forecast, so keep a night short. Afterwards all pictures are
audited. Exit status 1 if a picture was lost or made twice, or if the forecasts of all nights exceed the error bounds:
20 % on the first night, 10 % in the median.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from bench_clock import WORDS, judged
from chaos_audit import Ledger, audit, summary
from chaos_cast import Scene

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.domain import FINAL, Lane
from diffusion_local.paths import assets
from diffusion_local.queue.batches import FORECAST_PICTURES
from diffusion_local.settings import Settings

SECOND = "second"
SIDES = {
    "starter": ((128, 128), (192, 128), (256, 256)),
    "sd15": ((512, 512), (512, 384), (384, 384)),
}
POLL_SECONDS = 0.2
NOISE = 0.15  # spread of the fake engine's steps, as the deviation of their logarithm


def main() -> int:
    options = parse()
    run_as(LOCAL)
    options.home.mkdir(parents=True, exist_ok=True)
    notes = options.home / "nights.json"
    found = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {"nights": [], "promised": {}}
    violations: list[str] = []
    for number in range(len(found["nights"]), min(options.nights, len(found["nights"]) + options.calls)):
        night, violations = Night(options, number).run(found["promised"])
        found["nights"].append(night)
        notes.write_text(json.dumps(found), encoding="utf-8")
        print(json.dumps(night), summary(violations), flush=True)
    record = conditions(options) | judged(found["nights"]) | {"nights": found["nights"]}
    print(json.dumps({name: value for name, value in record.items() if name != "nights"}))
    if options.record:
        options.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    complete = len(found["nights"]) == options.nights
    return 1 if violations or (complete and not record["ok"]) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="kept, so that further calls continue")
    parser.add_argument("--engine", choices=["fake", "diffusers"], default="fake")
    parser.add_argument("--model", choices=list(SIDES), default="starter", help="sd15: with random weights")
    parser.add_argument("--device", choices=["cpu", "auto"], default="cpu")
    parser.add_argument("--batch-size", default="", help="pictures in a pass, or auto; as many as --alike unless given")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--regular", action="store_true", help="events come at nearly equal intervals")
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5, help="most nights in this call")
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--alike", type=int, default=4, help="pictures in a row that may share a pass, and its size")
    parser.add_argument("--runs", type=int, default=8, help="pictures in a row of one model")
    parser.add_argument("--kill-every", type=float, default=150.0, help="mean seconds between kills; 0: never")
    parser.add_argument("--person-every", type=float, default=45.0, help="mean seconds between interactive jobs")
    parser.add_argument("--rest-every", type=float, default=120.0, help="mean seconds between rests")
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of a rest")
    parser.add_argument("--step-seconds", type=float, default=0.8, help="of the fake engine, at 256x256")
    parser.add_argument("--seconds", type=float, default=540.0, help="a night is given up then")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def make_models(options: argparse.Namespace) -> None:
    """Write the models of the nights, if they are not there: the first one, unless it is bundled, and a copy of it."""
    folder = options.home / "models"
    first = assets() / "starter"
    if options.model != "starter":
        import bench_models

        first = folder / options.model
        if not first.exists():
            bench_models.make(options.model, first, "cuda", tiny=False)
    if not (folder / SECOND).exists():
        shutil.copytree(first, folder / SECOND)


class Night:
    """One list from submit to its last picture, on the processes of a server of its own."""

    def __init__(self, options: argparse.Namespace, number: int) -> None:
        self.options = options
        self.lot = random.Random(100 * options.seed + number)
        make_models(options)
        self.settings = Settings.load(
            {}, home=options.home, engine=options.engine, port=0, device=options.device, threads=1, disk_reserve_mb=50,
            fake_step_seconds=options.step_seconds, batch_size=options.batch_size or str(options.alike),
        )  # fmt: skip
        self.scene = Scene(open_services(self.settings), second=False)
        self.services = self.scene.services
        self.happened = {"kill": 0, "person": 0, "rest": 0}
        self.due: dict[str, float] = {}

    def run(self, promised: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
        """Returns the forecast and events of this night, and what the audit of all nights found. ``promised``: prompts
        by job id of the earlier nights; this one's are added.
        """
        studio, load = self.services.studio, os.getloadavg()[0]
        receipt = studio.lists.submit(self.lines(), "jsonl", name="night")
        try:
            self.scene.start()
            self.until_done(receipt.batch_id, promised)
            jobs = studio.jobs_of_batches([receipt.batch_id], self.options.prompts)
            promised |= {job.id: job.params.prompt for job in jobs}
            report = studio.reports.batch(receipt.batch_id)
            assert report.forecast is not None, "no forecast was made"
            self.scene.stop()
            violations = audit(self.settings, Ledger(dict(promised))).violations
        finally:
            self.scene.end()
            self.services.database.close()
        figures: dict[str, Any] = {name: round(value, 3) for name, value in asdict(report.forecast).items()}
        figures |= {f"{name}s": count for name, count in self.happened.items()} | {"loads": report.loads}
        return figures | {"load_average": [round(load, 1), round(os.getloadavg()[0], 1)]}, violations

    def lines(self) -> str:
        """The list, as JSON Lines."""
        lines = []
        for number in range(self.options.prompts):
            if number % self.options.runs == 0:
                model = self.lot.choice((self.options.model, SECOND))
            if number % self.options.alike == 0:
                width, height = self.lot.choice(SIDES[self.options.model])
            prompt = f"{self.lot.choice(WORDS)} number {number}"
            prompt = self.paced(prompt, width * height)
            wish = {"prompt": prompt, "model": model, "seed": number, "width": width, "height": height}
            lines.append(json.dumps(wish | {"steps": self.options.steps}))
        return "\n".join(lines)

    def paced(self, prompt: str, pixels: int) -> str:
        """The prompt, which tells the fake engine how long its steps take: by pixels, with noise."""
        if self.options.engine != "fake":
            return prompt
        seconds = self.options.step_seconds * pixels / 256**2 * self.lot.lognormvariate(0, NOISE)
        return f"{prompt} [slow:{seconds:.3f}]"

    def until_done(self, batch_id: str, promised: dict[str, str]) -> None:
        deadline = time.monotonic() + self.options.seconds
        self.due = {name: self.next(name) for name in self.happened}
        rested = float("inf")
        while time.monotonic() < deadline:
            progress = self.services.studio.batches.get(batch_id)
            if sum(progress.counts[state] for state in FINAL) == progress.batch.count:
                break
            for name in [name for name, due in self.due.items() if time.monotonic() >= due]:
                if name == "kill" and not self.kill():
                    continue  # none is there yet
                self.happened[name] += 1
                self.due[name] = self.next(name)
                if name == "person":
                    self.ask(promised)
                if name == "rest":
                    self.services.control.set_rest("too hot")
                    rested = time.monotonic() + self.lot.uniform(0.8, 1.2) * self.options.rest
            if time.monotonic() >= rested:
                self.services.control.set_rest("")
                rested = float("inf")
            time.sleep(POLL_SECONDS)
        else:
            raise TimeoutError(f"the night took more than {self.options.seconds} s")
        self.services.control.set_rest("")
        while self.services.view.unfinished(list(promised)):
            time.sleep(POLL_SECONDS)

    def next(self, name: str) -> float:
        every = getattr(self.options, f"{name}_every")
        if not every:
            return float("inf")
        regular = self.lot.uniform(0.9, 1.1) * every
        return time.monotonic() + (regular if self.options.regular else self.lot.expovariate(1 / every))

    def kill(self) -> bool:
        found = self.scene.workers()
        for worker in found:
            try:
                worker.kill()
            except psutil.NoSuchProcess:
                return False
        return bool(found)

    def ask(self, promised: dict[str, str]) -> None:
        prompt = self.paced(f"somebody waits, {self.lot.randrange(10**6)}", 128 * 128)
        width, height = SIDES[self.options.model][0]
        numbers = {"width": width, "height": height, "steps": self.options.steps, "seed": 1}
        asked = self.services.studio.submit(prompt, model=self.options.model, lane=Lane.INTERACTIVE, **numbers)
        promised |= dict.fromkeys(asked.job_ids, prompt)


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {
        name: value for name, value in vars(options).items() if name not in ("home", "calls", "record", "seconds")
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "scripts/bench_nights.py " + " ".join(f"--{n} {v}" for n, v in chosen.items()).replace("_", "-"),
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "told_after_pictures": FORECAST_PICTURES,
    }


if __name__ == "__main__":
    sys.exit(main())
