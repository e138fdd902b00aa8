"""The work that one process does for all others: chores, notifications, downloads, digests, and the power policy.

With SQLite the leader is the supervisor of the home. Several supervisors on one database server elect a leader with a
lock, which is released when the leader dies, so that another one takes over within seconds.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem
from diffusion_local.hub.client import FIRST_PAUSE
from diffusion_local.hub.fetcher import Fetcher
from diffusion_local.models.digests import Digests
from diffusion_local.notify.dispatcher import check_settings
from diffusion_local.notify.queues import FIRST_DELAY, DeliveryQueues
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.queue.huey_backends import queue_url
from diffusion_local.settings import local_zone
from diffusion_local.supervisor.housekeeping import start_chores
from diffusion_local.supervisor.power import PowerPolicy

if TYPE_CHECKING:
    from diffusion_local.db.server_lock import ServerLock

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
ELECTION_SECONDS = 3.0
#: Seconds after which a ring that had no effect counts as lost.
EVENTS_LOST_SECONDS, DOWNLOADS_LOST_SECONDS = 5.0, 15.0
DIGESTS_SECONDS = 60.0
MINUTE = 60.0


class NotificationChore:
    """Delivers notifications. One per home, in the supervisor; ``poll`` is cheap and called often."""

    def __init__(self, services: Services, delay: float = FIRST_DELAY) -> None:
        """``delay``: seconds before a second attempt. Raises InvalidParams for an unusable setting."""
        check_settings(services.settings)
        self._services = services
        self._queue = ChoreQueue(queue_url(services.settings), "notifications")
        self._slots = DeliveryQueues(services.settings, services.deliveries, services.notifications.deliver, delay)
        self._rung_at: float | None = None
        self._polled_at = 0.0
        self._minute_at = 0.0
        self._ring_daily = self._queue.add_on_demand("morning", self._write_daily_report)
        self._ring = self._queue.add_on_demand("tell", self._create_deliveries)

    def start(self) -> None:
        """Start, recovering deliveries of an earlier process."""
        self._services.deliveries.recover()
        self._queue.start()
        self._slots.poll()

    def poll(self) -> None:
        """Ring for new notifications and deliver due ones."""
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = now
        if now - self._minute_at > MINUTE:
            self._minute_at = now
            self._ring_daily()
        try:
            self._slots.poll()
            rung = self._rung_at is not None and now - self._rung_at < EVENTS_LOST_SECONDS
            if not rung and self._services.notices.any_unhandled():
                self._rung_at = now
                self._ring()
        except DatabaseProblem as problem:
            log.error("%s", problem)

    def stop(self) -> None:
        self._slots.stop()
        self._queue.stop()

    def _write_daily_report(self) -> None:
        self._services.notifications.write_daily_report(datetime.now(local_zone(self._services.settings.timezone)))

    def _create_deliveries(self) -> None:
        try:
            if self._services.notifications.create_deliveries():
                self._slots.poll()
        finally:
            self._rung_at = None


class DownloadChore:
    """Runs downloads. One per home, in the supervisor; ``poll`` is cheap and called often, as the work runs in Huey.

    Also computes digests of models while no download is waiting.
    """

    def __init__(self, services: Services, pause: float = FIRST_PAUSE) -> None:
        self._services = services
        self._fetcher = Fetcher(services.settings, services.downloads, pause)
        self._digests = Digests(services.catalog.index, services.settings.starter)
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
            waiting = self._services.downloads.any_waiting()
        except DatabaseProblem as problem:
            log.error("%s", problem)
            return
        if (waiting or now - self._digested_at > DIGESTS_SECONDS) and now - self._rung_at > DOWNLOADS_LOST_SECONDS:
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


class Leader:
    """The leader's work. ``poll`` is cheap and called often."""

    def __init__(self, services: Services, started: Callable[[], object]) -> None:
        """``started`` is called after the work has started, to set signal handlers that Huey's consumers replaced.

        Raises InvalidParams for an unusable setting.
        """
        check_settings(services.settings)
        self._services = services
        self._started = started
        self._lock: FileLock | ServerLock = services.database.lock(services.settings.locks / "leader.lock")
        self._elected_at = float("-inf")
        self._chores: ChoreQueue | None = None
        self._notifier: NotificationChore | None = None
        self._downloads: DownloadChore | None = None
        self._power: PowerPolicy | None = None

    @property
    def leads(self) -> bool:
        return self._chores is not None

    def start(self) -> None:
        """Start the work at once, unless another process is the leader."""
        self._elect()

    def poll(self) -> None:
        """Remain or become the leader if possible, and do due work. Raises DatabaseProblem."""
        if time.monotonic() - self._elected_at >= ELECTION_SECONDS:
            self._elect()
        for part in (self._notifier, self._power, self._downloads):
            if part is not None:
                part.poll()

    def stop(self) -> None:
        """End the work and release the lock, so that another process can become the leader."""
        self._end()
        self._lock.release()

    def _elect(self) -> None:
        self._elected_at = time.monotonic()
        try:
            held = isinstance(self._lock, FileLock) and self._lock.is_locked
            held = held or (self._lock.acquire(timeout=0) is not None)
        except Timeout:
            if self.leads:
                log.warning("another process became the leader while the database was unavailable")
                self._end()
            return
        if held and not self.leads:
            self._begin()

    def _begin(self) -> None:
        services = self._services
        self._notifier, self._downloads, self._power = (
            NotificationChore(services),
            DownloadChore(services),
            PowerPolicy(services),
        )
        self._chores = start_chores(services)
        for part in (self._notifier, self._power, self._downloads):
            part.start()
        self._started()

    def _end(self) -> None:
        for part in (self._downloads, self._power, self._notifier, self._chores):
            if part is not None:
                try:
                    part.stop()
                except DatabaseProblem as problem:
                    log.error("%s", problem)
        self._chores = self._notifier = self._downloads = self._power = None
