"""Overhead of the interfaces: a submit to a long queue, and A1111's and OpenAI's calls compared with the native one.

    python scripts/bench_apis.py [--waiting 100000] [--calls 200] [--record scripts/results/apis.json]

The application runs in this process, without network and worker. Times are measured by wall clock and by the process's
CPU time, which other load on the machine affects less:
- `POST /api/v1/jobs` and `Studio.submit` with `--waiting` jobs in the queue, and with none; also an empty request,
  because the client's own work is included;
- a picture by `POST /api/v1/jobs` with `Prefer: wait` (also with a GET of its file), by `POST /sdapi/v1/txt2img` and
  by `POST /v1/images/generations` (as Base64, and as a URL), in turn. Each job is finished at its submit with a test
  card, whose drawing is not counted. A dialect's overhead is the median of its differences from the native call
  without the file in the same round.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_record import conditions, publish
from fastapi.testclient import TestClient

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.domain import Batch, Image, Lane, Params, new_id, utc_now
from diffusion_local.engine.fake import draw_card
from diffusion_local.gallery.files import key_for
from diffusion_local.options import a1111
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.app import create_app

JOB = {"prompt": "a red apple", "width": 256, "height": 256, "steps": 4}
NATIVE = "native"


@dataclass
class Times:
    """Wall-clock and CPU milliseconds of each call, without the time that the stand-in worker ``paused`` took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], Any], paused: "Worker") -> None:
        paused.wall = paused.cpu = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.append((time.perf_counter() - wall - paused.wall) * 1000)
        self.cpu.append((time.process_time() - cpu - paused.cpu) * 1000)


class Worker:
    """Finishes each job within its submit; ``wall`` and ``cpu``: seconds that this took."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.wall = self.cpu = 0.0
        self._submit = Studio.submit
        Studio.submit = self._submitted  # type: ignore[method-assign,assignment]

    def stop(self) -> None:
        Studio.submit = self._submit  # type: ignore[method-assign]

    def _submitted(self, *args: Any, **options: Any) -> Any:
        receipt = self._submit(self._services.studio, *args, **options)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in receipt.job_ids:
            self._draw()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        return receipt

    def _draw(self) -> None:
        job = self._services.jobs.claim_next("cpu0")
        assert job is not None
        card, recipe = draw_card(job.params), {"parameters": a1111.format_recipe(job.params)}
        saved = self._services.files.save(key_for(job.id, job.created_at), card, recipe)
        size = (job.params.width, job.params.height)
        self._services.jobs.finish(job.claim, Image(job.id, job.id, saved.key, job.params, *size, 1000, utc_now(), 0.5))


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    record = conditions("fastapi", "starlette", "httpx")
    record["device"] += "; the client in the same process"
    record["submit"] = {str(waiting): submits(waiting, options.calls) for waiting in (0, options.waiting)}
    record["pictures"] = pictures(options.calls)
    record["load_1_min_after"] = round(os.getloadavg()[0], 2)
    publish(record, options.record)


def opened(home: str, most: int) -> tuple[Services, TestClient]:
    settings = Settings.load(
        home=home, engine="fake", port=0, max_queued=most, auth="none", writes_per_second=0, environ={}
    )
    services = open_services(settings)
    app = create_app(services.studio, settings, services=services)
    return services, TestClient(app, base_url="http://127.0.0.1:7860")


def submits(waiting: int, calls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        services, client = opened(home, 2 * waiting + 10 * calls)
        if waiting:
            fill(services, waiting)
        idle = Worker(services)
        idle.stop()
        direct, native, nothing = Times(), Times(), Times()
        for seed in range(calls):
            direct.add(lambda seed=seed: services.studio.submit(**JOB, seed=seed), idle)  # type: ignore[misc]
            native.add(lambda seed=seed: post(client, "/api/v1/jobs", JOB | {"seed": seed}), idle)  # type: ignore[misc]
            nothing.add(lambda: client.get("/healthz"), idle)
        services.database.close()
        return {"studio": told(direct), "http": told(native), "an_empty_request": told(nothing)}


def fill(services: Services, jobs: int) -> None:
    batch = Batch(new_id(), "waiting", "", Lane.BATCH, jobs, utc_now())
    params = [Params("a red apple", "", "starter", 256, 256, 12, 3.5, "Euler a", seed) for seed in range(jobs)]
    services.jobs.insert_batch(batch, new_jobs(batch, params, 0), None, 2 * jobs)


def pictures(calls: int) -> dict[str, Any]:
    """Make pictures through each interface, in turn."""
    with tempfile.TemporaryDirectory() as home:
        services, client = opened(home, 10_000)
        worker = Worker(services)

        def native(body: dict[str, Any]) -> str:
            [job] = post(client, "/api/v1/jobs", body, Prefer="wait=30")["jobs"]
            return str(job["image"]["url"])

        def with_file(body: dict[str, Any]) -> None:
            assert client.get(native(body)).content

        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            NATIVE: native,
            "native_and_its_file": with_file,
            "a1111": lambda body: post(client, "/sdapi/v1/txt2img", body),
            "openai_base64": lambda body: post(client, "/v1/images/generations", openai(body, "b64_json")),
            "openai_url": lambda body: post(client, "/v1/images/generations", openai(body, "url")),
        }
        times = {name: Times() for name in ways}
        for seed in range(calls + 3):
            for name, way in ways.items():
                body = JOB | {"seed": seed, "prompt": f"an apple, {name}"}
                times[name].add(lambda way=way, body=body: way(body), worker)  # type: ignore[misc]
        worker.stop()
        services.database.close()
    for each in times.values():  # the first calls import what they need
        del each.wall[:3], each.cpu[:3]
    first = times[NATIVE]
    return {name: told(each) for name, each in times.items()} | {
        f"{name}_adds_ms": {"wall": added(each.wall, first.wall), "cpu": added(each.cpu, first.cpu)}
        for name, each in times.items()
        if name not in (NATIVE, "native_and_its_file")
    }


def openai(body: dict[str, Any], form: str) -> dict[str, Any]:
    rest = {name: value for name, value in body.items() if name not in ("width", "height")}
    return rest | {"size": f"{body['width']}x{body['height']}", "response_format": form}


def post(client: TestClient, path: str, body: dict[str, Any], **headers: str) -> Any:
    answer = client.post(path, json=body, headers=headers)
    assert answer.is_success, answer.text
    return answer.json()


def added(times: list[float], native: list[float]) -> float:
    return round(statistics.median(each - other for each, other in zip(times, native, strict=True)), 2)


def told(times: Times) -> dict[str, Any]:
    return {"wall_ms": percentiles(times.wall), "cpu_ms": percentiles(times.cpu), "n": len(times.wall)}


def percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20)
    return {"min": round(min(values), 2), "p50": round(cuts[9], 2), "p95": round(cuts[18], 2)}


if __name__ == "__main__":
    main()
