"""Downloads models on a queue of its own, so that neither jobs nor other chores wait for it."""

import logging
import threading
import time

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem
from diffusion_local.hub.client import FIRST_PAUSE
from diffusion_local.hub.fetcher import Fetcher
from diffusion_local.models.digests import Digests
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.queue.huey_backends import queue_url

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
LOST_SECONDS = 15.0  # after which a ring without effect must have been lost
DIGESTS_SECONDS = 60.0


class DownloadChore:
    """One per home, in the supervisor. ``poll`` is cheap and called often; the work runs in Huey's consumer.

    Also computes digests of models while nothing is to be downloaded.
    """

    def __init__(self, services: Services, pause: float = FIRST_PAUSE) -> None:
        self._services = services
        self._fetcher = Fetcher(services.settings, services.downloads, pause)
        self._digests = Digests(services.catalog.shelf, services.settings.starter)
        self._queue = ChoreQueue(queue_url(services.settings), "downloads")
        self._ring = self._queue.add_on_demand("download", self._run)
        self._busy = threading.Event()
        self._rung_at = float("-inf")
        self._polled_at = 0.0
        self._digested_at = 0.0

    def start(self) -> None:
        """Start, resuming interrupted downloads."""
        self._services.downloads.recover()
        self._queue.start()

    def poll(self) -> None:
        """Ring for waiting downloads, and periodically for digests."""
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS or self._busy.is_set():
            return
        self._polled_at = now
        try:
            wanted = self._services.downloads.any_waiting()
        except DatabaseProblem as problem:
            log.error("%s", problem)
            return
        if (wanted or now - self._digested_at > DIGESTS_SECONDS) and now - self._rung_at > LOST_SECONDS:
            self._rung_at = now
            self._ring()

    def stop(self) -> None:
        self._fetcher.stop()
        self._digests.stop()
        self._queue.stop()

    def _run(self) -> None:
        self._busy.set()
        try:
            self._digested_at = time.monotonic()
            self._fetcher.run()
            self._digests.run(self._services.downloads.any_waiting)
        except DatabaseProblem as problem:
            log.error("%s", problem)
        finally:
            self._rung_at = float("-inf")
            self._busy.clear()
