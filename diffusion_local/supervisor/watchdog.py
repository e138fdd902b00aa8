"""Detects processes that are alive but hung: a web process that no longer answers ``/healthz`` is killed, and jobs of
remote workers that hang or whose lease has expired are requeued.

A process may be stopped, in an endless computation, or have a blocked event loop. Any response counts as life, even an
error or a closed connection; only silence is a reason to kill.
"""

import contextlib
import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.settings import Settings
from diffusion_local.system.network import local_host

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
STARTING_INTERVAL = 0.2  # until the first response
MAX_STARTING = 300.0  # seconds allowed until the first response
TIMEOUT_SECONDS = 5.0
MAX_FAILURES = 4  # consecutive ones, because a process may be busy for some seconds
MISSED_SECONDS = 5.0  # a longer delay of the watchdog's own loop means that this process was suspended
JUMP_SECONDS = 10.0  # allowed difference between wall clock and monotonic clock between two polls
LONGEST_GAP = 15.0  # seconds between two polls; after a longer gap, workers' silence means nothing


class Killable(Protocol):
    def kill(self) -> None: ...


class Watchdog:
    """Runs on its own thread, because a probe may take its whole timeout."""

    def __init__(self, answers: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """``answers`` probes the process and returns within about TIMEOUT_SECONDS."""
        self._answers = answers
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._watched: Killable | None = None
        self._started_at = 0.0
        self._answered_at: float | None = None
        self._failures = 0
        self._turn_at = clock()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def watch(self, process: Killable) -> None:
        """Watch a newly started process, which may take MAX_STARTING seconds until its first response."""
        with self._lock:
            self._watched, self._started_at = process, self._clock()
            self._answered_at, self._failures = None, 0

    @property
    def answered(self) -> bool:
        """Whether the watched process has responded since its start."""
        return self._answered_at is not None

    @property
    def healthy_seconds(self) -> float:
        """Seconds since the watched process's first response; 0 before it."""
        with self._lock:
            return 0.0 if self._answered_at is None else self._clock() - self._answered_at

    def poll(self) -> None:
        """Probe once."""
        with self._lock:
            watched = self._watched
        answered = self._answers()
        with self._lock:
            now = self._clock()
            late = now - self._turn_at > INTERVAL_SECONDS + TIMEOUT_SECONDS + MISSED_SECONDS
            self._turn_at = now
            process = self._watched
            if process is None or process is not watched:  # the process was replaced meanwhile
                return
            if answered:
                self._failures = 0
                self._answered_at = self._answered_at or now
            elif late:  # the machine slept, or this process was suspended
                self._failures = 0
            elif self._answered_at is not None or now - self._started_at > MAX_STARTING:
                self._failures += 1
            if self._failures < MAX_FAILURES:
                return
            self._failures = 0
        log.error("the web process has not answered %d times in a row; killed", MAX_FAILURES)
        process.kill()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS if self._answered_at else STARTING_INTERVAL):
            try:
                self.poll()
            except Exception:  # an error in this thread would otherwise go unnoticed
                log.exception("the watchdog check failed")


def answers(settings: Settings) -> bool:
    """Whether the server on this machine sends any response in time."""
    connection = connect(settings)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        connection.getresponse()
    except (ConnectionRefusedError, TimeoutError):
        return False
    except (http.client.HTTPException, OSError):  # closed by an overloaded but working server
        return True
    finally:
        with contextlib.suppress(OSError):
            connection.close()
    return True


def connect(settings: Settings) -> http.client.HTTPConnection:
    host = local_host(settings.host)
    if not settings.tls_cert:
        return http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # only liveness is probed, not identity
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, timeout=TIMEOUT_SECONDS, context=context)


Report = tuple[str, str]  # job, time of its last report


class LeaseWatch:
    """Watches the leases of remote workers. The supervisor calls ``poll`` every few seconds."""

    def __init__(
        self,
        services: Services,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._services = services
        self._clock = clock
        self._wall = wall
        self._polled: tuple[float, datetime] | None = None
        self._heard: dict[str, dict[Report, float]] = {}

    def poll(self, healthy_seconds: float) -> None:
        """Requeue jobs of lost and hung workers. ``healthy_seconds``: how long workers could reach the web process."""
        now, wall = self._clock(), self._wall()
        before, self._polled = self._polled, (now, wall)
        if before is not None:
            passed = now - before[0]
            if abs((wall - before[1]).total_seconds() - passed) > JUMP_SECONDS:
                log.warning("the clock jumped: all leases are renewed")
                self._services.leases.renew_all()
            if passed > LONGEST_GAP:
                self._heard.clear()
        if healthy_seconds <= self._services.settings.lease_seconds:
            self._heard.clear()  # no worker could report
            return
        slots.recover_expired(self._services)  # live workers have renewed their leases since the web process started
        self._end_hung(now)

    def _end_hung(self, now: float) -> None:
        """End the leases of workers that send heartbeats but whose jobs report no progress within their limit.

        The limit is the same as for workers on this machine.
        """
        view, timeout = self._services.view, self._services.settings.step_timeout
        heard: dict[str, dict[Report, float]] = {}
        for lease in self._services.leases.all():
            known, heard[lease.slot] = self._heard.get(lease.slot, {}), {}
            for job, at, limit in view.running_reports(lease.slot, timeout):
                since = heard[lease.slot][(job.id, at)] = known.get((job.id, at), now)
                if now - since > limit:
                    log.error("%s made no progress for too long", lease.slot, extra={"job": job.id})
                    slots.recover_hung(self._services, lease.slot)
                    break
        self._heard = heard
