"""Seconds per picture of the whole app on a GPU, including saving, compared with a bare diffusers loop.

For each model, the real worker process makes prompt lists from the real queue, once for each of ``--runs`` (a speed and
the setting ``batch_size``). These alternate with ``pipe(prompt).images[0].save()`` in this process, also with
``--by-hand`` prompts per call; all models stay on the GPU. Another process polls the queue as open pages do. Finally,
single pictures are submitted while a list runs. Models have real architectures and random weights (``bench_models``).

    python scripts/bench_app_gpu.py --pictures 24 --rounds 2

It needs the packages of ``bench_gpu``, and huey. ``--tiny`` runs everything on the CPU with small models.
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
from pathlib import Path
from typing import Any

import bench_models
import diffusers
import torch
import transformers

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Job, State, utc_now
from diffusion_local.settings import Settings, go_offline

RESULT = Path(__file__).parent / "results" / "gpu-app.json"
SIDES = {"sd15": 512, "sdxl": 1024}
STEPS, GUIDANCE = 20, 7.5
PIPELINES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
#: Seconds between two polls of the queue by an open page.
POLL_SECONDS = 0.5


class App:
    """A home with one model, and a worker running on it."""

    def __init__(self, folder: Path, models: Path, run: str, tiny: bool) -> None:
        self.name, self.tiny = run, tiny
        speed, _, batch_size = run.partition(":")
        self.settings = Settings.load(
            {}, home=str(folder), speed=speed, batch_size=batch_size or "auto", threads=1 if tiny else 0
        )
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
        """Run a list of prompts; returns its jobs, in order."""
        return self.finish(self.start(name, prompts, side, steps))

    def start(self, name: str, prompts: list[str], side: int, steps: int) -> list[str]:
        numbers = {"width": side, "height": side, "steps": steps, "guidance": GUIDANCE, "sampler": "Euler"}
        receipt = self.services.studio.lists.submit("\n".join(prompts), "text", model=name, **numbers)
        return [job.id for job in self.services.studio.jobs_of_batches([receipt.batch_id])]

    def finish(self, ids: list[str]) -> list[Job]:
        jobs = self.services.studio.wait(ids, 600)
        failed = [job.failure for job in jobs if job.state is not State.DONE]
        if failed:
            raise RuntimeError(f"{len(failed)} pictures failed: {failed[0]}")
        return sorted(jobs, key=lambda job: job.started_at or "")

    def urge(self, name: str, side: int, steps: int, count: int, pause: float) -> list[Job]:
        """Submit single pictures one after another, with pauses between them."""
        numbers = {"width": side, "height": side, "steps": steps, "guidance": GUIDANCE, "sampler": "Euler"}
        done = []
        for number in range(count):
            [job_id] = self.services.studio.submit(f"somebody waits, {number}", model=name, **numbers).job_ids
            done += self.services.studio.wait([job_id], 600)
            time.sleep(pause * (1 + number % 7 / 7))  # at varying moments of the running step
        return done

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
    """Run while another process polls the queues like open pages."""
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
        time.sleep(POLL_SECONDS)


def prompts(count: int, start: int) -> list[str]:
    """Distinct prompts, so that no cached embedding is reused."""
    return [f"a red apple on a wooden table, painting number {number}" for number in range(start, start + count)]


def bare_loop(name: str, folder: Path, side: int, steps: int, tiny: bool) -> Any:
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.float16)
    kind = getattr(diffusers, PIPELINES[name])
    extra = {"safety_checker": None, "requires_safety_checker": False} if name == "sd15" else {}
    extra |= {"add_watermarker": False} if name == "sdxl" else {}
    pipe = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **extra).to(device)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompts: list[str], seed: int, to: Path) -> None:
        generators = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
        numbers = {"width": side, "height": side, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
        for image in pipe(prompts, generator=generators, **numbers).images:
            image.save(to)

    return draw


def moment(at: str | None) -> float:
    return datetime.fromisoformat(at or "").timestamp()


def measured(jobs: list[Job]) -> dict[str, Any]:
    """Seconds per picture of a finished list: from the first to the last pass' claim, and including the last file."""
    started = sorted(moment(job.started_at) for job in jobs)
    ended = max(moment(job.finished_at) for job in jobs)
    passes: list[list[float]] = []
    for at in started:  # jobs of one pass are claimed by two calls, a few milliseconds apart
        if passes and at - passes[-1][0] < 0.02:
            passes[-1].append(at)
        else:
            passes.append([at])
    before = sum(map(len, passes[:-1])) or 1
    return {
        "period": round((passes[-1][0] - passes[0][0]) / before, 4),
        "with_last_file": round((ended - started[0]) / len(jobs), 4),
    }


def waited(app: App, name: str, side: int, steps: int, jobs: int) -> dict[str, Any]:
    """Milliseconds until single pictures are claimed and finished, while a list runs and on an idle machine."""

    def told(done: list[Job]) -> dict[str, Any]:
        claimed = sorted(1000 * (moment(job.started_at) - moment(job.created_at)) for job in done)
        whole = sorted(1000 * (moment(job.finished_at) - moment(job.created_at)) for job in done)
        return {
            "until_claimed": [round(claimed[0]), round(statistics.median(claimed)), round(claimed[-1])],
            "until_there": [round(whole[0]), round(statistics.median(whole)), round(whole[-1])],
        }

    pause = 0.02 if app.tiny else 0.25
    alone = told(app.urge(name, side, steps, 7, pause))
    ids = app.start(name, prompts(jobs, 5000), side, steps)
    time.sleep(2 * pause)
    beside = told(app.urge(name, side, steps, 14, pause))
    app.finish(ids)
    return {"unit": "ms: least, median, most", "beside_a_list": beside, "alone": alone}


def compare(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternate the runs of one model for a number of rounds."""
    side, steps = (64, 4) if options.tiny else (SIDES[name], STEPS)
    models = folder / "models"
    device = "cpu" if options.tiny else "cuda"
    bench_models.make(name, models / name, device, options.tiny)
    if not options.tiny:
        torch.cuda.empty_cache()
    apps = [App(folder / f"home-{name}-{run.replace(':', '-')}", models, run, options.tiny) for run in options.runs]
    row: dict[str, Any] = {"side": side, "steps": steps, "bare": [], f"bare_{options.by_hand}_at_once": []}
    try:
        draw = bare_loop(name, models / name, side, steps, options.tiny)
        for app in apps:
            first = app.draw(name, prompts(1, 0), side, steps)[0]
            row[app.name] = {
                "worker_start": round(app.start_seconds, 1),
                "first_picture": round(moment(first.finished_at) - moment(first.started_at), 2),
                "rounds": [],
            }
            began = time.monotonic()
            # the worker learns the best pass size and records graphs
            app.draw(name, prompts(8 if app.name.endswith(":1") else options.warm, 1), side, steps)
            row[app.name]["warming"] = round(time.monotonic() - began, 1)
            print(name, app.name, row[app.name], flush=True)
        for number in range(2):
            draw(["a red apple"], number, folder / "bare.png")
            draw(["a red apple"] * options.by_hand, number, folder / "bare.png")
        with watched([app.settings.home for app in apps]):
            for turn in range(options.rounds):
                began_at, bare = 100 * (turn + 1), max(3, options.pictures // 6)
                for size, key in ((1, "bare"), (options.by_hand, f"bare_{options.by_hand}_at_once")):
                    times = []
                    for number in range(max(2, bare // size)):
                        start = time.perf_counter()
                        draw(prompts(size, began_at + number * size), 1, folder / "bare.png")
                        times.append((time.perf_counter() - start) / size)
                    row[key].append(round(statistics.median(times), 4))
                for app in apps:
                    jobs = app.draw(name, prompts(options.pictures, began_at), side, steps)
                    facts = app.facts(jobs[len(jobs) // 2])
                    together = int(facts.get("place", "1/1").split("/")[1])
                    on_gpu = facts["denoise_seconds"] / together
                    row[app.name]["rounds"].append(
                        measured(jobs) | {"together": together, "denoising": round(on_gpu, 4)}
                    )
                    row[app.name]["made_by"] = {k: facts.get(k) for k in ("dtype", "speed", "fused", "cuda_graph")}
                    print(name, app.name, row[app.name]["rounds"][-1], row["bare"], flush=True)
            if options.waiting:
                pace = row[apps[-1].name]["rounds"][-1]["period"]
                row[apps[-1].name]["somebody_waits"] = waited(apps[-1], name, side, steps, int(options.waiting / pace))
    finally:
        for app in apps:
            app.stop()
    bare_one = statistics.median(row["bare"])
    by_hand = statistics.median(row[f"bare_{options.by_hand}_at_once"])
    for app in apps:
        period = statistics.median(each["period"] for each in row[app.name]["rounds"])
        row[app.name] |= {
            "seconds_a_picture": round(period, 4),
            "times_as_fast_as_bare": round(bare_one / period, 2),
            "times_as_fast_as_by_hand": round(by_hand / period, 2),
        }
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl"], choices=list(SIDES))
    parser.add_argument("--runs", nargs="+", default=["fast:1", "fast:auto"], help="speed:batch_size")
    parser.add_argument("--by-hand", type=int, default=8, help="prompts in one call of the bare loop")
    parser.add_argument("--waiting", type=float, default=20, help="seconds of the list while somebody waits, or 0")
    parser.add_argument("--warm", type=int, default=120, help="pictures before the first round")
    parser.add_argument("--pictures", type=int, default=24, help="in a list; a sixth as many by the bare loop")
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
