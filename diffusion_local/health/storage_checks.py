"""Checks whether gallery and database are writable, without waiting for a hanging disk or share."""

import logging
import threading
import time

from diffusion_local.authority import guarded
from diffusion_local.db.database import Database, find_database
from diffusion_local.errors import DatabaseProblem, StorageProblem
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.messages import message
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 2.0
WATCH_SECONDS = 15.0  # between two checks for those who do not wait


@guarded("storage")
class StorageProbe:
    """Cached write check, one per process: writes at most once in FRESH_SECONDS, whatever the number of callers."""

    def __init__(
        self, database: Database, files: ImageFiles, patience: float | None = None, watched: bool = False
    ) -> None:
        """``patience``: seconds to wait for a result; None: PATIENCE_SECONDS. ``watched``: the page tells a fault even
        if no job meets it, as for a bucket.
        """
        self._database = database
        self._files = files
        self._patience = patience
        self._watched = watched
        self._lock = threading.Lock()
        self._running: threading.Thread | None = None
        self._found = ""
        self._at = self._began = float("-inf")

    def fault(self, wait: bool = True) -> str:
        """Why gallery or database is not writable; "" if both are.

        Without ``wait``, the newest known result, "" unless it is ``watched``; a check that is due runs in the
        background.
        """
        if not wait and not self._watched:
            return ""
        with self._lock:
            if self._running is None and time.monotonic() - self._at >= (FRESH_SECONDS if wait else WATCH_SECONDS):
                self._began = time.monotonic()
                self._running = threading.Thread(target=self._write, name="probe", daemon=True)
                self._running.start()
            running = self._running
        if not wait:
            silent = running is not None and time.monotonic() - self._began > WATCH_SECONDS
            return message("storage_no_answer") if silent else self._found
        if running is not None:
            running.join(PATIENCE_SECONDS if self._patience is None else self._patience)
            if running.is_alive():
                return message("storage_no_answer")
        return self._found

    def _write(self) -> None:
        try:
            self._found = fault(self._database, self._files)
        finally:
            self._at = time.monotonic()
            self._database.close()  # this thread's connection
            self._running = None


def fault(database: Database, files: ImageFiles) -> str:
    """Write to both; returns the problem or "". Blocks on a hanging disk."""
    try:
        files.probe()
        database.probe()
    except (StorageProblem, DatabaseProblem) as problem:
        return problem.message
    return ""


def can_write(settings: Settings) -> bool:
    """Whether a new connection can write to the database. An older connection may still work when a new one cannot."""
    try:
        database = find_database(settings)
    except DatabaseProblem as problem:
        log.error("%s", problem)
        return False
    if database is None:
        return False
    try:
        database.probe()
    except DatabaseProblem as problem:
        log.error("%s", problem)
        return False
    finally:
        database.close()
    return True
