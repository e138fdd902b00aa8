"""Health endpoints: ``/healthz`` and ``/readyz`` for supervisors, and ``/metrics`` for Prometheus."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from diffusion_local import __version__
from diffusion_local.actor import LOCAL, acting
from diffusion_local.domain import Worker
from diffusion_local.queue.views import RECENT_JOBS
from diffusion_local.queue.workers import is_silent
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.system import gpus
from diffusion_local.web.error_responses import NOT_CACHED

METRIC_PREFIX = "diffusion_local_"
WAIT_BUCKETS = (1, 5, 15, 60, 300, 1800, 7200, 28800)
RUN_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 300)


def add(app: FastAPI, studio: Studio, settings: Settings, registry: CollectorRegistry) -> None:
    """Add the routes. ``registry``: the metrics of ``web.requests``; those of the queue are added to it."""
    registry.register(Numbers(studio, settings))

    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, Any]:
        """Whether the server answers and can read its database."""
        return {"status": "ok", "version": __version__, "revision": studio.revision()}

    @app.get("/readyz", tags=["health"])
    def readyz() -> JSONResponse:
        """Whether a job submitted now would be processed; 503 gives the reason. A pause by a user is not a failure.

        Tests whether gallery and database are writable, at most every few seconds.
        """
        with acting(LOCAL):  # open to everyone, but it reveals only one sentence about the machine
            reason = why_not_ready(studio).replace(f"{settings.home}/", "")
        content = {"ready": not reason} | ({"reason": reason} if reason else {})
        return JSONResponse(content, 503 if reason else 200, headers=NOT_CACHED)

    @app.get("/metrics", tags=["health"], response_class=Response)
    def metrics() -> Response:
        """Metrics for Prometheus, all taken at one moment."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=NOT_CACHED)


def why_not_ready(studio: Studio) -> str:
    snapshot = studio.snapshot(0, 0)
    if snapshot.reason:
        return f"The queue holds itself back: {snapshot.reason}"
    if fault := studio.storage.fault():
        return fault
    if any(up(worker) and worker.status != "starting" for worker in snapshot.workers):
        return ""
    workers = ", ".join(
        f"{w.slot} {w.status if up(w) or w.status == 'stopped' else 'silent'}" for w in snapshot.workers
    )
    return f"No worker is ready ({workers or 'none was ever started'})."


def up(worker: Worker) -> bool:
    return worker.status != "stopped" and not is_silent(worker, datetime.now(UTC))


class Numbers(Collector):
    """Metrics of the queue, read from the database at each scrape, so that they survive restarts.

    All are gauges, because old jobs are deleted. The histograms cover the last RECENT_JOBS ended jobs; their buckets
    are gauges too, so use ``histogram_quantile`` without ``rate``.
    """

    def __init__(self, studio: Studio, settings: Settings) -> None:
        self._studio = studio
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        tally = self._studio.tally()
        depth = gauge("queue_jobs", "Jobs that wait or run", ["lane", "state"])
        for state, lanes in (("queued", tally.waiting), ("running", tally.running)):
            for lane, count in lanes.items():
                depth.add_metric([lane, state], count)
        yield depth
        claimable = gauge("claimable_jobs", "Jobs that a worker could take now, for autoscalers", ["lane", "model"])
        for (lane, model), count in sorted(tally.claimable.items()):
            claimable.add_metric([lane, model], count)
        yield claimable
        yield counted("ended_jobs", "Ended jobs that are still listed", "state", tally.ended)
        yield counted("failed_jobs", "Failed jobs that are still listed, by kind of error", "kind", tally.failures)
        yield single("pictures", "Pictures in the gallery", tally.pictures)
        yield counted("worker_up", "Whether a worker is alive", "slot", {w.slot: int(up(w)) for w in tally.workers})
        yield single("queue_paused", "Whether a person paused the queue", int(tally.paused))
        yield single("queue_blocked", "Whether the queue holds itself back, as for a full disk", int(tally.blocked))
        yield from histogram("wait_seconds", "Submit to start", WAIT_BUCKETS, tally.wait_seconds)
        yield from histogram("run_seconds", "Start to end", RUN_BUCKETS, tally.run_seconds)
        yield from graphics()
        yield single("disk_free_bytes", "Free space for pictures", shutil.disk_usage(self._settings.home).free)


def graphics() -> Iterator[Metric]:
    """Metrics of each GPU, labelled with its worker's slot; nothing without GPUs."""
    devices = gpus.read()
    if not devices:
        return
    memory = gauge("gpu_memory_bytes", "Memory of a GPU", ["slot", "kind"])
    power = gauge("gpu_power_watts", "Power that a GPU takes, and may take", ["slot", "kind"])
    for gpu in devices:
        memory.add_metric([gpu.slot, "used"], gpu.used)
        memory.add_metric([gpu.slot, "total"], gpu.total)
        for kind, watts in (("draw", gpu.power), ("limit", gpu.power_limit)):
            if watts is not None:
                power.add_metric([gpu.slot, kind], watts)
    yield memory
    yield power
    heat = {gpu.slot: gpu.temperature for gpu in devices if gpu.temperature is not None}
    yield counted("gpu_temperature_celsius", "Temperature of a GPU", "slot", heat)
    busy = {gpu.slot: gpu.busy for gpu in devices if gpu.busy is not None}
    yield counted("gpu_busy_ratio", "Part of the time that a GPU was busy", "slot", busy)


def gauge(name: str, meaning: str, labels: Sequence[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(METRIC_PREFIX + name, f"{meaning}.", labels=labels)


def single(name: str, meaning: str, value: float) -> Metric:
    family = gauge(name, meaning)
    family.add_metric([], value)
    return family


def counted(name: str, meaning: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = gauge(name, meaning, [label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def histogram(name: str, meaning: str, bounds: Sequence[float], values: list[float]) -> Iterator[Metric]:
    """A histogram of current values: an OpenMetrics gauge histogram in Prometheus's older text format."""
    buckets = gauge(f"{name}_bucket", f"{meaning}, of the last {RECENT_JOBS} ended jobs", ["le"])
    for bound in bounds:
        buckets.add_metric([f"{float(bound):g}"], sum(value <= bound for value in values))
    buckets.add_metric(["+Inf"], len(values))
    yield buckets
    yield single(f"{name}_gcount", f"{meaning}: jobs in the buckets", len(values))
    yield single(f"{name}_gsum", f"{meaning}: seconds of all in the buckets", sum(values))
