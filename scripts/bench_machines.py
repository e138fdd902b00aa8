"""Throughput and cost of N joined workers: claims and pictures per second, over HTTP on loopback.

    python scripts/bench_machines.py --workers 1,4,16,64,256 --queues 10,10000,100000 \
        --record scripts/results/machines.json

Workers are threads in one process that claim, report once and upload a picture drawn beforehand: they measure the
studio and the transport, not an engine. ``--processes 4`` adds a run of that many real worker processes with the fake
engine. Submits continue meanwhile. Reported are p50 and p95 in milliseconds of submit, claim and finish, CPU
milliseconds of the studio's web process per picture, and for an idle studio the time from submit to claim. ``--direct``
uses the stores in the same process instead of HTTP; ``--postgresql`` keeps the tables on a server of its own, with
fsync, whose CPU is counted too.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image as PIL

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import Finished, ProgressReport
from diffusion_local.dispatch.local import LocalDispatch
from diffusion_local.dispatch.matching import installed_files
from diffusion_local.domain import Batch, DeviceMemory, Lane, new_id, utc_now
from diffusion_local.gallery.image_formats import encode
from diffusion_local.models.digests import Digests
from diffusion_local.options.table import Params
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.remote.dispatch import join
from diffusion_local.remote.pairing import Credential
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.postgresql import Cluster, running_cluster

SIZE = 128
SMALL = {"width": SIZE, "height": SIZE, "steps": 4}
SUBMIT_PAUSE = 0.1  # seconds between submits while workers run


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,4,16,64,256", help="numbers of in-process clients")
    parser.add_argument("--queues", default="10,10000,100000", help="lengths of the queue at the start")
    parser.add_argument("--processes", default="", help="numbers of real worker processes")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--direct", action="store_true", help="over the stores, without HTTP")
    parser.add_argument("--postgresql", action="store_true", help="the tables are on a PostgreSQL server")
    parser.add_argument("--studio-core", type=int, default=-1, help="pins the studio to it, workers to the others")
    parser.add_argument("--idle", type=int, default=100, help="submits to an idle studio")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    with running_cluster(durable=True) if options.postgresql else contextlib.nullcontext() as server:
        measure(options, server)


def measure(options: argparse.Namespace, server: Cluster | None) -> None:
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": f"scripts/bench_machines.py {' '.join(sys.argv[1:])}",
        "version": __version__,
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
        "picture": f"{SIZE}x{SIZE} PNG",
        "runs": [],
    }
    if options.idle and not options.direct:
        with studio(10, options.studio_core, server) as (services, url, web):
            record["idle_submit_to_claim_ms"] = idle_latency(services, url, options.idle)
    for queue in numbers(options.queues):
        for count in numbers(options.workers):
            with studio(queue, options.studio_core, server, serve=not options.direct) as (services, url, web):
                run = {"workers": count, "queue": queue} | measured(services, url, web, count, options.seconds, server)
                record["runs"].append(run)
                print(json.dumps(run), flush=True)
    for count in numbers(options.processes):
        with studio(10_000, options.studio_core, server) as (services, url, web):
            run = {"processes": count, "queue": 10_000} | of_processes(services, url, web, count, options.seconds)
            record["runs"].append(run)
            print(json.dumps(run), flush=True)
    print(json.dumps(record, indent=2))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each]


@contextlib.contextmanager
def studio(
    queue: int, core: int, server: Cluster | None = None, serve: bool = True
) -> Iterator[tuple[Services, str, psutil.Process]]:
    """A new studio with a queue of this length: (services, URL, the process that serves it). Its tables are on the
    ``server``, if there is one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-machines-") as home, socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
        probe.close()
        more: dict[str, Any] = {"engine": "fake", "port": port, "max_queued": 2 * queue + 100_000, "mdns": "off"}
        if server is not None:
            more["database"] = server.create("bench")
        settings = Settings.load({}, home=Path(home), **more)
        services = open_services(settings)
        Digests(services.catalog.index, services.catalog.default.folder).run()
        params = Params("a red apple", "", services.catalog.default.id, SIZE, SIZE, 4, 5.0, "DPM++ 2M", 7)
        for start in range(0, queue, 10_000):
            count = min(10_000, queue - start)
            batch = Batch(new_id(), "bench", "", Lane.BATCH, count, utc_now())
            jobs = new_jobs(batch, [replace(params, seed=start + each) for each in range(count)])
            services.jobs.insert_batch(batch, jobs, None, 10**7)
        if not serve:
            yield services, "", psutil.Process()
            return
        child = subprocess.Popen(
            [sys.executable, "-m", "diffusion_local.web"], env=settings.child_environ(), stdin=subprocess.PIPE
        )
        try:
            until(lambda: answers(port), 120)
            web = psutil.Process(child.pid)
            if core >= 0 and hasattr(web, "cpu_affinity"):
                web.cpu_affinity([core])
                psutil.Process().cpu_affinity([each for each in range(os.cpu_count() or 1) if each != core] or [core])
            yield services, f"http://127.0.0.1:{port}", web
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the studio did not come up")
        time.sleep(0.05)


class Times:
    """Durations in milliseconds, by name."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        self._found.setdefault(name, []).append(1000 * seconds)

    def told(self) -> dict[str, dict[str, float]]:
        return {name: quantiles(found) for name, found in sorted(self._found.items())}


def quantiles(found: list[float]) -> dict[str, float]:
    ordered = sorted(found)
    return {
        "count": len(ordered),
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
    }


def connected(services: Services, url: str, number: int, files: Any) -> Any:
    """A worker's dispatch, over HTTP or directly on the stores."""
    if not url:
        return LocalDispatch(services, f"cpu{number}")
    dispatch = join(Credential(url), f"machine-{number}.cpu0")
    dispatch.take(0)
    dispatch.publish_files(files)  # type: ignore[attr-defined]
    dispatch.register(1, "cpu", DeviceMemory())  # type: ignore[attr-defined]
    return dispatch


def measured(
    services: Services, url: str, web: psutil.Process, count: int, seconds: float, server: Cluster | None
) -> dict[str, Any]:
    """Measure ``count`` clients for some seconds, while jobs are submitted."""
    encoded = encode(PIL.effect_noise((SIZE, SIZE), 99).convert("RGB"), {"parameters": "a red apple"})
    picture = Finished(encoded, SIZE, SIZE, utc_now(), JobTimings(0.3, 0.0, 0.3, "resident"))
    times, over, made = Times(), threading.Event(), [0] * count
    files = installed_files(services.catalog)
    workers = [connected(services, url, number, files) for number in range(count)]

    def work(number: int) -> None:
        dispatch = workers[number]
        while not over.is_set():
            with times.of("claim"):
                jobs = dispatch.claim("starter")
            if not jobs:
                over.wait(0.05)
                continue
            dispatch.report([ProgressReport(jobs[0].claim, 2)])
            with times.of("finish"):
                dispatch.finish(jobs[0].claim, replace(picture, created_at=utc_now()))
            made[number] += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    cpu, before, began = sum(web.cpu_times()[:2]), cpu_of(server), time.monotonic()
    for each in threads:
        each.start()
    with httpx.Client(base_url=url or "http://nowhere") as client:
        while time.monotonic() - began < seconds:
            with times.of("submit"):
                submit(services, client, url)
            time.sleep(SUBMIT_PAUSE)
    took, used, pictures = time.monotonic() - began, sum(web.cpu_times()[:2]) - cpu, sum(made)
    over.set()
    for each in threads:
        each.join(30)
    per_picture = 1000 / max(1, pictures)  # without HTTP the studio is this process, with its workers
    cost = {"studio_cpu_ms_per_picture": round(used * per_picture, 2)}
    if server is not None:
        server_used = sum(now - before.get(pid, 0.0) for pid, now in cpu_of(server).items())
        cost["server_cpu_ms_per_picture"] = round(server_used * per_picture, 2)
    return {"pictures_per_second": round(pictures / took, 1), "studio_cpu": round(used / took, 2)} | cost | times.told()


def cpu_of(server: Cluster | None) -> dict[int, float]:
    """CPU seconds that each process of a PostgreSQL server has used."""
    used = {}
    for each in psutil.Process(server.pid).children() if server else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            used[each.pid] = sum(each.cpu_times()[:2])
    return used


def submit(services: Services, client: httpx.Client, url: str) -> None:
    if url:
        client.post("/api/v1/jobs", json={"prompt": "a tree", "seed": 1} | SMALL).raise_for_status()
    else:
        services.studio.submit("a tree", seed=1, **SMALL)


def idle_latency(services: Services, url: str, count: int) -> dict[str, float]:
    """Time from submit to claim with one waiting worker."""
    dispatch, times = connected(services, url, 0, installed_files(services.catalog)), Times()
    while jobs := dispatch.claim("starter"):
        dispatch.stop(jobs[0].claim)
    claimed_at: dict[str, float] = {}
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            if dispatch.wait(0.25):
                for job in dispatch.claim("starter"):
                    claimed_at[job.id] = time.perf_counter()
                    dispatch.stop(job.claim)

    threading.Thread(target=work, daemon=True).start()
    with httpx.Client(base_url=url) as client:
        for _ in range(count):
            time.sleep(0.3)
            began = time.perf_counter()
            [job] = client.post("/api/v1/jobs", json={"prompt": "a tree", "seed": 1} | SMALL).json()["job_ids"]
            until(lambda job=job: job in claimed_at, 10)  # type: ignore[misc]
            times.add("submit to claim", claimed_at[job] - began)
    over.set()
    return times.told()["submit to claim"]


STEP_SECONDS = 0.075  # four of them: 0.3 s per picture
IDLE_SECONDS = 10.0  # during which the CPU of the idle studio is measured


def of_processes(services: Services, url: str, web: psutil.Process, count: int, seconds: float) -> dict[str, Any]:
    """Measure real worker processes with the fake engine, and beside them one of the studio's own.

    All share a machine that may be busy, so what the wire costs is told by the pictures of a joined worker compared
    with those of the studio's own in the same seconds, and by the share of the time that each one's engine waited.
    The studio's CPU per picture includes what it uses when idle, which is measured before.
    """
    idle = sum(web.cpu_times()[:2])
    time.sleep(IDLE_SECONDS)
    idle = (sum(web.cpu_times()[:2]) - idle) / IDLE_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        more = {ENVIRONMENT_PREFIX + "FAKE_STEP_SECONDS": str(STEP_SECONDS), ENVIRONMENT_PREFIX + "ENGINE": "fake"}
        worker = [sys.executable, "-m", "diffusion_local.worker", "--slot", "cpu0"]
        children = [subprocess.Popen(worker, env=services.settings.child_environ() | more, stdin=subprocess.PIPE)]
        for number in range(count):
            environ = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
            environ |= more | {ENVIRONMENT_PREFIX + "HOME": f"{folder}/{number}"}
            children.append(subprocess.Popen([*worker, "--join", url, "--machine", f"m{number}"], env=environ))
        try:
            until(
                lambda: len({each.slot for each in services.workers.list_all() if each.status == "busy"}) == count + 1,
                120,
            )
            time.sleep(2)  # until the first pictures of all are saved
            processes = [psutil.Process(child.pid) for child in children]
            cpu = [sum(each.cpu_times()[:2]) for each in (web, *processes)]
            first, began = made_by(services), time.monotonic()
            time.sleep(seconds)
            last, took = made_by(services), time.monotonic() - began
            used = [sum(each.cpu_times()[:2]) - before for each, before in zip((web, *processes), cpu, strict=True)]
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(20)
    made = {slot: number - first[slot][0] for slot, (number, _) in last.items()}
    waited = {slot: round(1 - (busy - first[slot][1]) / took, 3) for slot, (_, busy) in last.items()}
    local = made.pop("cpu0")
    remote, pictures = sum(made.values()) / count, sum(made.values())
    return {
        "pictures_per_second": round(pictures / took, 2),
        "pictures_per_second_of_a_local_worker": round(local / took, 2),
        "lost_to_the_wire": round(1 - remote / local, 3),
        "engine_waited": round(statistics.mean(waited[slot] for slot in made), 3),
        "engine_of_the_local_worker_waited": waited["cpu0"],
        "studio_cpu_ms_per_picture": round(1000 * used[0] / max(1, pictures), 2),
        "idle_studio_cpu_ms_per_second": round(1000 * idle, 2),
        "worker_cpu_ms_per_picture": round(1000 * sum(used[2:]) / max(1, pictures), 2),
        "local_worker_cpu_ms_per_picture": round(1000 * used[1] / max(1, local), 2),
    }


def made_by(services: Services) -> dict[str, tuple[int, float]]:
    """By worker: the number of its pictures, and the seconds that its engine took for them."""
    with services.database.read() as db:
        return {
            slot: (number, busy)
            for slot, number, busy in db.execute(
                "SELECT job_events.worker, count(*), sum(images.seconds) FROM images "
                "JOIN job_events ON job_events.job_id = images.job_id AND job_events.state = 'running' "
                "GROUP BY job_events.worker"
            )
        }


if __name__ == "__main__":
    main()
