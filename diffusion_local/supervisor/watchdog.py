"""The watchdog: asks the web process for ``/healthz`` over and over, and has it killed when it no longer answers.

A process can be alive and yet of no use: stopped, in an endless computation, or with an event loop that is blocked. Any
answer counts, also one that reports a fault or a connection that the server closes: only silence is a reason to kill.
"""

import contextlib
import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol

from diffusion_local.settings import Settings
from diffusion_local.system.network import local_host

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
STARTING_INTERVAL = 0.2  # until the first answer
MOST_STARTING = 300.0  # seconds until the first answer
TIMEOUT_SECONDS = 5.0
MOST_FAILURES = 4  # in a row: a process may be busy for some seconds
MISSED_SECONDS = 5.0  # by which a turn of ours may be late, before we were the ones that were stopped


class Killable(Protocol):
    def kill(self) -> None: ...


class Watchdog:
    """On a thread of its own, as an answer may take its whole time-out."""

    def __init__(self, answers: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """``answers`` takes about TIMEOUT_SECONDS at most."""
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
        """Watch a process that has just been started; it may take MOST_STARTING seconds for its first answer."""
        with self._lock:
            self._watched, self._started_at = process, self._clock()
            self._answered_at, self._failures = None, 0

    @property
    def answered(self) -> bool:
        """Whether the watched process has answered since its start."""
        return self._answered_at is not None

    @property
    def healthy_seconds(self) -> float:
        """Seconds since the first answer of the watched process; 0 before it."""
        with self._lock:
            return 0.0 if self._answered_at is None else self._clock() - self._answered_at

    def look(self) -> None:
        """One turn."""
        with self._lock:
            asked = self._watched
        answered = self._answers()
        with self._lock:
            now = self._clock()
            late = now - self._turn_at > INTERVAL_SECONDS + TIMEOUT_SECONDS + MISSED_SECONDS
            self._turn_at = now
            process = self._watched
            if process is None or process is not asked:  # it was replaced meanwhile
                return
            if answered:
                self._failures = 0
                self._answered_at = self._answered_at or now
            elif late:  # the machine slept, or we were stopped: nobody could answer then
                self._failures = 0
            elif self._answered_at is not None or now - self._started_at > MOST_STARTING:
                self._failures += 1
            if self._failures < MOST_FAILURES:
                return
            self._failures = 0
        log.error("the web process has not answered %d times in a row; killed", MOST_FAILURES)
        process.kill()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS if self._answered_at else STARTING_INTERVAL):
            try:
                self.look()
            except Exception:  # of this thread nobody else would hear
                log.exception("the watchdog could not look")


def answers(settings: Settings) -> bool:
    """Whether the server on this machine answers in time, whatever it says."""
    connection = connect(settings)
    try:
        connection.request("GET", "/healthz", headers={"Connection": "close"})
        connection.getresponse()
    except (ConnectionRefusedError, TimeoutError):
        return False
    except (http.client.HTTPException, OSError):  # it closed the connection: it has too many, but it is at work
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
    context.check_hostname = False  # it is asked whether it lives, not who it is
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.port, timeout=TIMEOUT_SECONDS, context=context)
