"""The work that one process does for all: chores, notifications, downloads, and the care of the machine.

With SQLite it is the supervisor of the home. Several supervisors on one database server elect a leader by a lock, which
is released when the leader dies; another one takes over within seconds.
"""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem
from diffusion_local.notify.dispatcher import check_settings
from diffusion_local.queue.doorbell import ChoreQueue
from diffusion_local.supervisor.downloads import DownloadChore
from diffusion_local.supervisor.housekeeping import start_chores
from diffusion_local.supervisor.notifier import NotificationChore
from diffusion_local.supervisor.power import PowerPolicy

if TYPE_CHECKING:
    from diffusion_local.db.server_lock import ServerLock

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0


class Leader:
    """``poll`` is cheap and called often."""

    def __init__(self, services: Services, started: Callable[[], object]) -> None:
        """``started`` is called after the work began: its consumers replace signal handlers. Raises InvalidParams for
        an unusable setting.
        """
        check_settings(services.settings)
        self._services = services
        self._started = started
        self._lock: FileLock | ServerLock = services.database.lock(services.settings.locks / "leader.lock")
        self._looked_at = float("-inf")
        self._chores: ChoreQueue | None = None
        self._notifier: NotificationChore | None = None
        self._downloads: DownloadChore | None = None
        self._power: PowerPolicy | None = None

    @property
    def leads(self) -> bool:
        return self._chores is not None

    def start(self) -> None:
        """Begin at once, unless another process leads."""
        self._look()

    def poll(self) -> None:
        """Keep leading or take over, and do what is due. Raises DatabaseProblem."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look()
        for part in (self._notifier, self._power, self._downloads):
            if part is not None:
                part.poll()

    def stop(self) -> None:
        """End the work, and let another process lead."""
        self._end()
        self._lock.release()

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            held = isinstance(self._lock, FileLock) and self._lock.is_locked
            held = held or (self._lock.acquire(timeout=0) is not None)
        except Timeout:
            if self.leads:
                log.warning("another process leads now: it was faster after the database was away")
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
