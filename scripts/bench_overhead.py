"""Overhead of the queue: pictures through the queue compared with a bare pipeline loop; latencies; memory.

    python scripts/bench_overhead.py [--pictures 20] [--submits 100] [--steps 8] [--record FILE.json]

Measures, on this machine and with the starter model:
- seconds per picture from submit through queue and worker process to the saved PNG and row, as a ratio to ``pipe(...)``
  in a loop with the same settings; the two alternate, so that both see the same load on the machine;
- latency of `Studio.submit` in process (p50, p95) and of the named endpoint `/submit` by `gradio_client`;
- latency from submit to claim by an idle worker (p50, p95);
- resident memory of the web and the worker process.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_record import conditions, percentiles, publish
from bench_studio import eventually, serving_url, start

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.paths import assets
from diffusion_local.settings import Settings

PROMPT = "a red apple"
ROUNDS = 4


def main() -> None:
    run_as(LOCAL)
    options = parse()
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.load(home=home, port=0)
        serving = start(settings)
        try:
            url = serving_url(settings)
            services = open_services(settings)
            wait_for_worker(services)
            record = conditions("torch", "diffusers", "gradio", "huey")
            record |= throughput(services, options, serving.pid)
            record |= submit_latency(services, url, options.submits)
            record |= idle_latency(services, options.submits // 2)
            record |= memory(serving.pid)
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.wait(20)
    publish(record, options.record)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--submits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def wait_for_worker(services: Services) -> None:
    eventually(lambda: any(worker.status == "idle" for worker in services.workers.list_all()))
    services.studio.wait(services.studio.submit(PROMPT, steps=2).job_ids, 120)  # warm-up: loads the model


def throughput(services: Services, options: argparse.Namespace, server: int) -> dict[str, Any]:
    """Seconds per picture of queue and loop, with at most two CPU threads each, never at the same time.

    ``cpu``: CPU seconds of all the studio's processes and of the loop, which other load on the machine affects less.
    """
    loop = bare_loop(options.steps)
    each = max(1, options.pictures // ROUNDS)
    queued, bare = [], []
    queued_cpu, bare_cpu = [], []
    for round_ in range(ROUNDS):
        began, used = time.monotonic(), cpu_seconds(server)
        receipt = services.studio.submit(PROMPT, count=each, seed=round_ * each, steps=options.steps)
        services.studio.wait(receipt.job_ids, 3600)
        queued.append((time.monotonic() - began) / each)
        queued_cpu.append((cpu_seconds(server) - used) / each)
        began, used = time.monotonic(), time.process_time()
        for seed in range(round_ * each, (round_ + 1) * each):
            loop(seed)
        bare.append((time.monotonic() - began) / each)
        bare_cpu.append((time.process_time() - used) / each)
    return {
        "queue_seconds_a_picture": round(statistics.median(queued), 3),
        "loop_seconds_a_picture": round(statistics.median(bare), 3),
        "ratio": round(statistics.median(queued) / statistics.median(bare), 3),
        "ratios_by_round": [round(q / b, 3) for q, b in zip(queued, bare, strict=True)],
        "cpu": {
            "queue_seconds_a_picture": round(statistics.median(queued_cpu), 3),
            "loop_seconds_a_picture": round(statistics.median(bare_cpu), 3),
            "ratio": round(statistics.median(queued_cpu) / statistics.median(bare_cpu), 3),
            "ratios_by_round": [round(q / b, 3) for q, b in zip(queued_cpu, bare_cpu, strict=True)],
        },
    }


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and its descendants so far."""
    first = psutil.Process(pid)
    times = [each.cpu_times() for each in (first, *first.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def bare_loop(steps: int) -> Any:
    import torch

    from scripts.starter.models import load_pipeline

    pipe = load_pipeline(assets() / "starter")

    def draw(seed: int) -> None:
        generator = torch.Generator("cpu").manual_seed(seed)
        pipe(PROMPT, width=256, height=256, num_inference_steps=steps, guidance_scale=5.0, generator=generator)

    draw(0)
    return draw


def submit_latency(services: Services, url: str, submits: int) -> dict[str, Any]:
    """Milliseconds until a submit is acknowledged; the queue is paused so that the worker does not interfere."""
    from gradio_client import Client

    services.studio.queue.pause()
    client = Client(url, verbose=False)
    direct = [timed(lambda: services.studio.submit(PROMPT)) for _ in range(submits)]
    remote = [timed(lambda: client.predict(PROMPT, api_name="/submit")) for _ in range(submits)]
    services.studio.queue.cancel(waiting=True)
    services.studio.queue.resume()
    return {"submit_ms": percentiles(direct), "submit_by_gradio_client_ms": percentiles(remote)}


def idle_latency(services: Services, submits: int) -> dict[str, Any]:
    """Milliseconds from a submit to its claim by an idle worker."""
    waits = []
    for _ in range(submits):
        receipt = services.studio.submit(PROMPT, steps=1, width=128, height=128)
        (job,) = services.studio.wait(receipt.job_ids, 60)
        events = {event.state: event.at for event in services.studio.events(job.id)}
        waits.append(seconds_between(events["queued"], events["running"]))
        time.sleep(0.4)  # idle again
    return {"idle_start_ms": percentiles(waits)}


def seconds_between(first: str, second: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory(supervisor: int) -> dict[str, Any]:
    """Resident megabytes per process, and whether the web process has torch mapped."""
    found: dict[str, Any] = {}
    for child in psutil.Process(supervisor).children():
        command = " ".join(child.cmdline())
        name = "web" if "diffusion_local.web" in command else "worker"
        found[f"{name}_resident_mb"] = round(child.memory_info().rss / 1e6)
        if name == "web":
            found["web_has_torch"] = any("libtorch" in mapped.path for mapped in child.memory_maps())
    found["supervisor_resident_mb"] = round(psutil.Process(supervisor).memory_info().rss / 1e6)
    return found


if __name__ == "__main__":
    main()
