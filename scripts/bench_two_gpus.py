"""Seconds per picture of SDXL with guidance, by one GPU against two: by the engine alone, and by the whole app.

By the engine: pictures as usual, in halves on one GPU, and in halves with the second GPU's help, all of one seed, by
turns; the last two must be equal byte for byte. By the app: workers of two slots make single pictures from the queue,
with the setting ``share_gpus`` off and on. Finally, a job is submitted while both GPUs work on one picture:
milliseconds until its worker has claimed it, until the borrower has returned the GPU, and until it is done. Models have
real architectures and random weights (``bench_models``).

    python scripts/bench_two_gpus.py --out gpu-two.json

It needs two GPUs of one machine. ``--tiny`` runs everything on the CPU with small models, to try the script.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import bench_models
import diffusers
import torch

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.domain import Job, State, utc_now
from diffusion_local.engine import Part, Pass
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.table import Params
from diffusion_local.queue.loans import LoanStore
from diffusion_local.settings import Settings, go_offline, keep_kernels

RESULT = Path(__file__).parent / "results" / "gpu-two.json"
GUIDANCE = 7.5


class Lent:
    """A helper that is always there; ``problems`` counts refusals."""

    def __init__(self, slot: str) -> None:
        self._slot, self.problems = slot, 0

    def slot(self) -> str:
        return "" if self.problems else self._slot

    def refuse(self) -> None:
        self.problems += 1


def by_engine(options: argparse.Namespace, model: Model, side: int) -> dict[str, Any]:
    """Seconds per picture of the engine alone, for each speed and way."""
    found: dict[str, Any] = {}
    for speed in options.speeds:
        engine = DiffusersEngine(at_slot(options.slots[0]), speed=speed)
        engine.load(model)
        helper = Lent(options.slots[1])
        ways: dict[str, dict[str, Any]] = {
            "one": {},
            "halves_on_one": {"gpus": 2},
            "two": {"gpus": 2, "helper": helper},
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        digests: dict[str, str] = {}
        facts: dict[str, Any] = {}
        first: dict[str, float] = {}
        for turn in range(options.warm + options.rounds):
            for name, how in ways.items():
                params = Params(
                    "a red apple on a wooden table", "", model.id, side, side, options.steps, GUIDANCE, "Euler", 7,
                    gpus=how.get("gpus", 1),
                )  # fmt: skip
                part = Part(params, lambda step, preview: None)
                began = time.perf_counter()
                engine.run(Pass([part], helper=how.get("helper")))
                picture = part.result()
                pixels = picture.image.tobytes()
                seconds = time.perf_counter() - began
                if turn >= options.warm:
                    times[name].append(seconds)
                first.setdefault(name, round(seconds, 3))
                digests[name] = hashlib.sha256(pixels).hexdigest()
                names = ("speed", "fused", "cuda_graph", "gpus", "helped_steps", "denoise_seconds")
                facts[name] = {each: picture.facts.get(each) for each in names}
        seconds_of = {name: round(statistics.median(each), 4) for name, each in times.items()}
        found[speed] = {
            "seconds": seconds_of,
            "times_as_fast": round(seconds_of["one"] / seconds_of["two"], 2),
            "first": first,
            "equal_pixels": digests["two"] == digests["halves_on_one"],
            "refusals": helper.problems,
            "facts": facts,
        }
        if not options.tiny:
            found[speed]["gib_on_second"] = round(torch.cuda.max_memory_reserved(1) / 2**30, 2)
        began = time.perf_counter()
        engine.drop_helper()
        found[speed]["give_back_seconds"] = round(time.perf_counter() - began, 4)
        engine.unload()
        print("engine", speed, json.dumps(found[speed]), flush=True)
    return found


def moment(at: str | None) -> float:
    return datetime.fromisoformat(at or "").timestamp()


class App:
    """A home with one model and workers of two slots."""

    def __init__(self, options: argparse.Namespace, folder: Path, models: Path, share: str) -> None:
        self.settings = Settings.load(
            {}, home=str(folder), share_gpus=share, share_gpus_seconds=0.0, threads=1 if options.tiny else 0
        )
        self.settings.models.parent.mkdir(parents=True, exist_ok=True)
        self.settings.models.symlink_to(models)
        self.services = open_services(self.settings)
        self.numbers = {
            "width": options.side, "height": options.side, "steps": options.steps, "guidance": GUIDANCE,
            "sampler": "Euler", "model": options.model,
        }  # fmt: skip
        command = [sys.executable, "-m", "diffusion_local.worker", "--slot"]
        self.workers = [subprocess.Popen([*command, slot], env=self.settings.child_environ()) for slot in options.slots]
        self.until(lambda: [each.status for each in self.services.workers.list_all()] == ["idle", "idle"])

    def until(self, condition: Any, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or any(each.poll() is not None for each in self.workers):
                raise TimeoutError("the workers did not come that far")
            time.sleep(0.002)

    def submit(self, number: int, **changes: Any) -> str:
        return self.services.studio.submit(f"painting number {number}", **self.numbers | changes).job_ids[0]

    def done(self, job_id: str) -> Job:
        [job] = self.services.studio.wait([job_id], 120)
        if job.state is not State.DONE:
            raise RuntimeError(str(job.failure))
        return job

    def facts(self, job: Job) -> dict[str, Any]:
        return self.services.studio.images_of([job])[job.id].facts

    def pictures(self, count: int, start: int) -> list[dict[str, Any]]:
        """Single pictures one after another, as a person makes them; the workers may take turns."""
        found = []
        for number in range(start, start + count):
            job = self.done(self.submit(number))
            facts = self.facts(job)
            found.append(
                {
                    "seconds": round(moment(job.finished_at) - moment(job.started_at), 4),
                    "helped_steps": facts.get("helped_steps", 0),
                    "speed": facts.get("speed"),
                }
            )
        return found

    def interrupted(self, number: int, steps: int) -> dict[str, Any]:
        """Milliseconds from the submit of a job while both GPUs make one picture."""
        loans: LoanStore = self.services.loans
        long = self.submit(number, steps=steps)
        self.until(lambda: any(loan.state == "used" for loan in self.loans(loans)))
        began = time.time()
        other = self.submit(number + 1)
        self.until(lambda: not self.loans(loans))
        returned = time.time()
        job = self.done(other)
        self.done(long)
        return {
            "until_claimed": round(1000 * (moment(job.started_at) - began)),
            "until_gpu_returned": round(1000 * (returned - began)),
            "until_done": round(1000 * (moment(job.finished_at) - began)),
        }

    def loans(self, loans: LoanStore) -> list[Any]:
        with self.services.database.read() as db:
            slots = [row["borrower"] for row in db.query("SELECT borrower FROM loans")]
        return [each for slot in slots if (each := loans.renew(slot, use=False))]

    def stop(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(60)
        self.services.database.close()


def by_app(options: argparse.Namespace, folder: Path, models: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for share in ("off", "auto"):
        app = App(options, folder / f"home-{share}", models, share)
        try:
            app.pictures(options.warm + 4, 0)  # models, kernels and graphs of both workers, and the estimate
            made = app.pictures(4 * options.rounds, 100)
            found[share] = {"seconds": round(statistics.median(each["seconds"] for each in made), 4), "pictures": made}
            if share == "auto":
                found["somebody_waits_ms"] = [
                    app.interrupted(200 + 2 * turn, options.steps * 10) for turn in range(options.interruptions)
                ]
        finally:
            app.stop()
        print("app", share, json.dumps(found[share]), flush=True)
    found["times_as_fast"] = round(found["off"]["seconds"] / found["auto"]["seconds"], 2)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sdxl", choices=list(bench_models.NAMES))
    parser.add_argument("--speeds", nargs="+", default=["exact", "fast"], choices=["exact", "fast", "fastest"])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm", type=int, default=2, help="pictures of each kind before those that are measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--interruptions", type=int, default=3, help="jobs that arrive while a GPU is lent")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: to try the script")
    parser.add_argument("--folder", type=Path, help="where models and homes are made: 15 GB; a RAM disk is fastest")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run_as(LOCAL)
    options.slots = ("cpu0", "cpu1") if options.tiny else ("gpu0", "gpu1")
    if options.tiny:
        options.side, options.steps, options.warm, options.rounds, options.interruptions = 64, 4, 1, 1, 1
    shared = Path("/dev/shm")
    base = options.folder or (shared if shared.is_dir() and not options.tiny else Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix="bench-two-", dir=base))
    go_offline(folder)
    keep_kernels(folder / "kernels")
    device = "CPU" if options.tiny else f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    result: dict[str, Any] = {
        "date": utc_now()[:10],
        "device": f"{device}, {os.cpu_count()} CPU cores",
        "versions": {each.__name__: str(each.__version__) for each in (torch, diffusers)},
        "picture": f"{options.model}, {options.side}x{options.side}, {options.steps} steps, guidance",
        "unit": "seconds a picture, median; by the app including saving",
    }
    if not options.tiny:
        result["peer_access"] = torch.cuda.can_device_access_peer(0, 1)
    try:
        models = folder / "models"
        bench_models.make(options.model, models / options.model, "cpu" if options.tiny else "cuda", options.tiny)
        if not options.tiny:
            torch.cuda.empty_cache()
        for name, measure in (
            (
                "engine",
                lambda: by_engine(
                    options, read_folder(models / options.model, options.model, options.model), options.side
                ),
            ),
            ("app", lambda: by_app(options, folder, models)),
        ):
            result[name] = measure()
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
