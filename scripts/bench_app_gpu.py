"""Seconds a picture of the whole app on a GPU, saving included, beside a bare diffusers loop in the same minutes.

For each model the real worker process works off prompt lists through the real queue, once with each of ``--speeds``, in
turns with ``pipe(prompt).images[0].save()`` in this process; all of them stay on the GPU. A process beside them reads
the queue as open pages do. Models have the true architecture and random weights (``bench_models``).

    python scripts/bench_app_gpu.py --pictures 24 --rounds 2

It needs what ``bench_gpu`` needs, and huey. ``--tiny`` runs it all on the CPU with small models.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import bench_models
import diffusers
import torch
import transformers

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Job, State, utc_now
from diffusion_local.settings import SPEEDS, Settings, go_offline

RESULT = Path(__file__).parent / "results" / "gpu-app.json"
SIDES = {"sd15": 512, "sdxl": 1024}
STEPS, GUIDANCE = 20, 7.5
PIPELINES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
#: Seconds between two looks of an open page at the queue.
LOOK_SECONDS = 0.5


class App:
    """A home with one model and a worker at work on it."""

    def __init__(self, folder: Path, models: Path, speed: str, tiny: bool) -> None:
        self.speed, self.tiny = speed, tiny
        self.settings = Settings.load({}, home=str(folder), speed=speed, threads=1 if tiny else 0)
        self.settings.models.parent.mkdir(parents=True, exist_ok=True)
        self.settings.models.symlink_to(models)
        self.services: Services = open_services(self.settings)
        slot = "cpu0" if tiny else "gpu0"
        command = [sys.executable, "-m", "diffusion_local.worker", "--slot", slot]
        began = time.monotonic()
        self.worker = subprocess.Popen(command, env=self.settings.child_environ())
        eventually(lambda: any(each.status == "idle" for each in self.services.workers.list_all()))
        self.start_seconds = time.monotonic() - began

    def draw(self, name: str, prompts: list[str], side: int, steps: int) -> list[Job]:
        """Work off a list of prompts; its jobs, in order."""
        numbers = {"width": side, "height": side, "steps": steps, "guidance": GUIDANCE, "sampler": "Euler"}
        receipt = self.services.studio.lists.submit("\n".join(prompts), "text", model=name, **numbers)
        ids = [job.id for job in self.services.studio.jobs_of_batches([receipt.batch_id])]
        jobs = self.services.studio.wait(ids, 600)
        failed = [job.failure for job in jobs if job.state is not State.DONE]
        if failed:
            raise RuntimeError(f"{len(failed)} pictures failed: {failed[0]}")
        return sorted(jobs, key=lambda job: job.started_at or "")

    def facts(self, job: Job) -> dict[str, Any]:
        return self.services.studio.images_of([job])[job.id].facts

    def stop(self) -> None:
        self.worker.send_signal(signal.SIGTERM)
        self.worker.wait(60)
        self.services.database.close()


def eventually(condition: Any, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def watched(homes: list[Path]) -> Iterator[None]:
    """While another process looks at the queues as open pages do."""
    watcher = multiprocessing.get_context("spawn").Process(target=watch, args=(homes,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        watcher.terminate()
        watcher.join()


def watch(homes: list[Path]) -> None:
    run_as(LOCAL)
    houses = [open_services(Settings.load({}, home=str(home))) for home in homes]
    while True:
        for services in houses:
            services.studio.snapshot()
        time.sleep(LOOK_SECONDS)


def prompts(count: int, start: int) -> list[str]:
    """Different ones, as a list has them: no embedding is met again."""
    return [f"a red apple on a wooden table, painting number {number}" for number in range(start, start + count)]


def bare_loop(name: str, folder: Path, side: int, steps: int, tiny: bool) -> Any:
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.float16)
    kind = getattr(diffusers, PIPELINES[name])
    extra = {"safety_checker": None, "requires_safety_checker": False} if name == "sd15" else {}
    extra |= {"add_watermarker": False} if name == "sdxl" else {}
    pipe = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **extra).to(device)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str, seed: int, to: Path) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = {"width": side, "height": side, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
        pipe(prompt, generator=generator, **numbers).images[0].save(to)

    return draw


def measured(jobs: list[Job]) -> dict[str, Any]:
    """Of a list that was worked off: seconds between two claims, and from the first claim to the last file."""
    started = [datetime.fromisoformat(job.started_at or "").timestamp() for job in jobs]
    ended = max(datetime.fromisoformat(job.finished_at or "").timestamp() for job in jobs)
    periods = sorted(later - earlier for earlier, later in pairwise(started))
    return {
        "period": round(statistics.median(periods), 4),
        "p10_p90": [round(periods[int(len(periods) * share)], 4) for share in (0.1, 0.9)],
        "with_last_file": round((ended - started[0]) / len(jobs), 4),
    }


def compare(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One model: rounds in turns."""
    side, steps = (64, 4) if options.tiny else (SIDES[name], STEPS)
    models = folder / "models"
    device = "cpu" if options.tiny else "cuda"
    bench_models.make(name, models / name, device, options.tiny)
    if not options.tiny:
        torch.cuda.empty_cache()
    apps = [App(folder / f"home-{name}-{speed}", models, speed, options.tiny) for speed in options.speeds]
    row: dict[str, Any] = {"side": side, "steps": steps, "bare": []}
    try:
        draw = bare_loop(name, models / name, side, steps, options.tiny)
        for app in apps:
            first = app.draw(name, prompts(1, 0), side, steps)[0]
            seconds = datetime.fromisoformat(first.finished_at or "") - datetime.fromisoformat(first.started_at or "")
            row[app.speed] = {
                "worker_start": round(app.start_seconds, 1),
                "first_picture": round(seconds.total_seconds(), 2),
                "rounds": [],
            }
            app.draw(name, prompts(4, 1), side, steps)
        for number in range(2):
            draw("a red apple", number, folder / "bare.png")
        with watched([app.settings.home for app in apps]):
            for turn in range(options.rounds):
                began, bare = 100 * (turn + 1), max(3, options.pictures // 3)
                times = []
                for prompt in prompts(bare, began):
                    start = time.perf_counter()
                    draw(prompt, 1, folder / "bare.png")
                    times.append(time.perf_counter() - start)
                row["bare"].append(round(statistics.median(times), 4))
                for app in apps:
                    jobs = app.draw(name, prompts(options.pictures, began), side, steps)
                    row[app.speed]["rounds"].append(measured(jobs))
                    facts = app.facts(jobs[-1])
                    row[app.speed]["made_by"] = {k: facts.get(k) for k in ("dtype", "speed", "fused", "cuda_graph")}
    finally:
        for app in apps:
            app.stop()
    bare = statistics.median(row["bare"])
    for app in apps:
        period = statistics.median(each["period"] for each in row[app.speed]["rounds"])
        row[app.speed] |= {"seconds_a_picture": round(period, 4), "times_as_fast_as_bare": round(bare / period, 2)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"], choices=list(SIDES))
    parser.add_argument("--speeds", nargs="+", default=list(SPEEDS), choices=SPEEDS)
    parser.add_argument("--pictures", type=int, default=24, help="in a list; a third as many by the bare loop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: to try the script")
    parser.add_argument("--folder", type=Path, help="where models and homes are made: 20 GB; a RAM disk is fastest")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    run_as(LOCAL)
    shared = Path("/dev/shm")
    base = options.folder or (shared if shared.is_dir() and not options.tiny else Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix="bench-app-", dir=base))
    go_offline(folder)
    words = [each for each in sys.argv[1:] if each not in ("--folder", str(options.folder), "--out", str(options.out))]
    result: dict[str, Any] = {
        "date": utc_now()[:10],
        "device": "CPU" if options.tiny else f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores",
        "versions": {each.__name__: str(each.__version__) for each in (torch, diffusers, transformers)},
        "command": " ".join(["python", "scripts/bench_app_gpu.py", *words]),
        "unit": "seconds a picture; period is the median time between two claims of a list",
    }
    try:
        for name in options.models:
            result[name] = compare(name, options, folder)
            print(name, json.dumps(result[name], indent=1), flush=True)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=2) + "\n")
            shutil.rmtree(folder / "models", ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
