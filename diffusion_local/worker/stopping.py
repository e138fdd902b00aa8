"""Stopping a worker: requests by signal or closed input, and a forced exit after a grace period."""

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType

from diffusion_local.dispatch import Dispatch

log = logging.getLogger(__name__)


class Stop:
    """Requests to stop. ``wanted``: claim no more jobs; ``now``: also give back the running jobs.

    A first request sets both, or only ``wanted`` with ``finish_first``; a second request always sets both.
    """

    def __init__(self, finish_first: bool = False) -> None:
        self._finish_first = finish_first
        self.wanted = threading.Event()
        self.now = threading.Event()

    def request(self) -> None:
        if self.wanted.is_set() or not self._finish_first:
            self.now.set()
        self.wanted.set()


def listen_to_signals(stop: Stop) -> None:
    """Turn stop signals into requests on ``stop``.

    The handler only writes to a pipe, because it may interrupt the main thread while that holds the event's lock.
    """
    reader, writer = os.pipe()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        os.write(writer, b"!")

    def pass_on() -> None:
        while os.read(reader, 1):
            stop.request()

    threading.Thread(target=pass_on, daemon=True).start()

    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), on_signal)


def stop_at_end_of_input(stop: Stop) -> None:
    """Stop when standard input closes, which means that the supervisor, which holds its other end, has died."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    stop.request()


def exit_after_grace(dispatch: Dispatch, stop: Stop, grace: float) -> None:
    """Give back the running jobs and exit if the worker has not stopped by itself within ``grace`` seconds.

    This is safe because writes with a released claim are rejected.
    """
    stop.now.wait()
    time.sleep(grace)
    try:
        dispatch.give_back([job.claim for job in dispatch.running()])
        dispatch.leave()
        log.info("stopped in the middle of a step")
    finally:
        logging.shutdown()
        os._exit(0)
