"""Probes gallery and database after a fault, and blocks the queue while they are not writable."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from diffusion_local.compose import Services
from diffusion_local.errors import DatabaseProblem, DiskFull, StorageProblem
from diffusion_local.gallery.files import PROBE_BYTES
from diffusion_local.messages import Message, map_params, message

log = logging.getLogger(__name__)

PROBE_SECONDS = 1.0  # between two probes while the queue is blocked
SLOW_SECONDS = 10.0  # a gallery that does not respond for so long blocks the queue
WATCH_SECONDS = 1.0  # between two checks for such a gallery


class Storage:
    """One per process. ``check`` and ``ready`` write to the gallery, so both block if a network share hangs."""

    def __init__(self, services: Services) -> None:
        self._files = services.files
        self._database = services.database
        self._control = services.control
        self._reserve = services.settings.disk_reserve_mb * 10**6
        self._home = str(services.settings.home)
        self._logged_reason = ""
        self._probe_bytes = PROBE_BYTES
        self._probed_at = float("-inf")
        self._waits: dict[int, float] = {}  # by thread: monotonic time at which its wait for the gallery began
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="gallery watch", daemon=True).start()

    def ready(self) -> bool:
        """Whether jobs may be claimed. Blocks the queue while the gallery is not writable or its disk is nearly full.

        Raises DatabaseProblem.
        """
        held = self._control.blocked_reason()
        if held and time.monotonic() - self._probed_at < PROBE_SECONDS:
            return False
        reason = self._low_space() or (self._fault() if held else "")
        if reason != held:
            self._control.block(reason)
            self._log_once(reason)
        return not reason

    def check(self, needed: int = PROBE_BYTES) -> bool:
        """Whether gallery and database are writable. If not, the queue is blocked until ``ready`` finds them so.

        ``needed``: size in bytes of the data that could not be saved.
        """
        self._probe_bytes = max(self._probe_bytes, needed)
        reason = self._fault()
        if reason:
            self._block(reason)
        else:
            self._logged_reason = ""
        return not reason

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wrap a call to the gallery, so that the queue is blocked if the call hangs."""
        self._waits[threading.get_ident()] = time.monotonic()
        try:
            yield
        finally:
            self._waits.pop(threading.get_ident(), None)

    def close(self) -> None:
        self._closed.set()

    def relative(self, text: str) -> str:
        """A message in which paths below the home are relative to it."""
        if isinstance(text, Message):
            return map_params(text, self._without_home)
        return self._without_home(text)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _without_home(self, text: str) -> str:
        return text.replace(f"{self._home}/", "").replace(f"{self._home}\\", "")

    def _block(self, reason: str) -> None:
        """Block the queue. An unwritable database blocks it anyway, because every claim fails."""
        self._log_once(reason)
        with contextlib.suppress(DatabaseProblem):
            self._control.block(reason)

    def _log_once(self, reason: str) -> None:
        """Log a reason only when it changes."""
        if reason != self._logged_reason:
            self._logged_reason = reason
            log.warning("the queue is blocked: %s", reason) if reason else log.info("the storage is available again")

    def _watch(self) -> None:
        """Block the queue while the gallery does not respond; runs on a background thread."""
        while not self._closed.wait(WATCH_SECONDS):
            since = min(list(self._waits.values()), default=None)
            if since is not None and time.monotonic() - since >= SLOW_SECONDS:
                with contextlib.suppress(DatabaseProblem):
                    if not self._control.blocked_reason():
                        self._block(message("storage_silent"))

    def _fault(self) -> str:
        """The reason why gallery or database is not writable, or ""."""
        try:
            with self.waiting():
                self._files.probe(self._probe_bytes)
            self._database.probe()
        except DiskFull:
            return message("disk_full")
        except (StorageProblem, DatabaseProblem) as problem:
            return message("storage_held", problem=self.relative(problem.message))
        finally:
            self._probed_at = time.monotonic()
        self._probe_bytes = PROBE_BYTES
        return ""

    def _low_space(self) -> str:
        try:
            with self.waiting():
                free = self._files.free_bytes()
        except StorageProblem as problem:
            return message("storage_held", problem=self.relative(problem.message))
        if free >= self._reserve:
            return ""
        return message("disk_nearly_full", reserve=self._reserve // 10**6)
