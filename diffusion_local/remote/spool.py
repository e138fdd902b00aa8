"""Spool of a remote worker on its own disk: its session, and pictures that are not delivered yet.

So a restarted worker can deliver the pictures that it finished while the studio was unreachable, even after a crash.
"""

import json
import logging
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from diffusion_local import disk
from diffusion_local.dispatch import Finished, wire
from diffusion_local.domain import Claim
from diffusion_local.errors import HomeInUse
from diffusion_local.messages import Message, message

log = logging.getLogger(__name__)

SPOOL_SUFFIX = ".picture"
RESERVE_BYTES = 200 * 10**6  # disk space that spooled pictures leave free


class Spool:
    """One per worker. Files are written atomically and durably."""

    def __init__(self, folder: Path, lock: Path, most_bytes: int) -> None:
        """``lock``: lock file of the slot in this home. Pictures take at most ``most_bytes``."""
        self._folder = folder
        self._lock = FileLock(lock, mode=disk.FILE)
        self._most = most_bytes
        self._logged = ""

    def hold(self, patience: float) -> None:
        """Keep other workers of this home from using the slot. Raises HomeInUse."""
        with disk.storage_errors():
            self._folder.mkdir(disk.FOLDER, parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=patience)
            except Timeout:
                who = message("another_process")
                raise HomeInUse(
                    message("slot_held", slot=self._folder.name, home=self._folder.parent.parent, who=who)
                ) from None

    # -- the session ---------------------------------------------------------------------------------------------------

    def session(self, url: str) -> tuple[str, list[Claim]]:
        """(last session at a studio, claims that its worker could not give back)."""
        try:
            noted = json.loads(self._noted.read_text(encoding="utf-8"))
            return (
                (str(noted["session"]), [Claim(*each) for each in noted["given_back"]])
                if noted["url"] == url
                else ("", [])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return "", []

    def note_session(self, url: str, session: str, given_back: list[Claim] | None = None) -> None:
        claims = [[each.job_id, each.worker, each.attempt] for each in given_back or []]
        try:
            disk.replace_file(self._noted, json.dumps({"url": url, "session": session, "given_back": claims}).encode())
        except OSError as error:  # after a restart the worker then waits until the lease expires
            log.warning("the session could not be stored: %s", error)

    # -- pictures ------------------------------------------------------------------------------------------------------

    def keep(self, claim: Claim, picture: Finished) -> bool:
        """Store a picture that could not be delivered; returns whether it is on disk."""
        path = self._path(claim)
        if path.exists():
            return True
        data = wire.request("finish", (claim, picture), {})
        if self.used() + len(data) > self._most:
            self._log(message("spool_full", most=self._most // 10**6))
            return False
        try:
            disk.replace_file(path, data)
        except OSError as error:
            self._log(message("spool_unwritable", error=disk.to_problem(error).message))
            return False
        log.info("stored until the studio is available", extra={"job": claim.job_id})
        return True

    def drop(self, claim: Claim) -> None:
        self._path(claim).unlink(missing_ok=True)

    def pictures(self) -> list[tuple[Claim, Finished]]:
        """The spooled pictures; unreadable files are deleted."""
        handed_in = []
        for path in sorted(self._folder.glob(f"*{SPOOL_SUFFIX}")):
            try:
                _, arguments = wire.parse_arguments(*wire.unpack(path.read_bytes()))
                handed_in.append((arguments["claim"], arguments["picture"]))
            except Exception as error:  # written by another version, or damaged
                log.warning("%s cannot be handed in: %s", path.name, error)
                path.unlink(missing_ok=True)
        return handed_in

    def clear(self) -> None:
        """Delete pictures whose claims are lost."""
        for path in self._folder.glob(f"*{SPOOL_SUFFIX}"):
            log.warning("%s: the claim was lost; another worker makes the job", path.stem)
            path.unlink(missing_ok=True)

    def used(self) -> int:
        """Bytes that spooled pictures take."""
        return sum(path.stat().st_size for path in self._folder.glob(f"*{SPOOL_SUFFIX}"))

    def problem(self) -> Message | None:
        """Why no further picture could be stored, so that none should be started; None if there is room."""
        try:
            free = shutil.disk_usage(self._folder).free
            used = self.used()
        except OSError as error:
            reason = message("spool_unwritable", error=disk.to_problem(error).message)
        else:
            if used < self._most and free > RESERVE_BYTES:
                self._logged = ""
                return None
            reason = message("spool_full", most=self._most // 10**6)
            if free <= RESERVE_BYTES:
                reason = message("spool_no_disk", free=free // 10**6)
        self._log(reason)
        return reason

    def _log(self, problem: Message) -> None:
        if problem != self._logged:
            self._logged = str(problem)
            log.error("%s", problem)

    @property
    def _noted(self) -> Path:
        return self._folder / "session.json"

    def _path(self, claim: Claim) -> Path:
        return self._folder / f"{claim.job_id}-{claim.attempt}{SPOOL_SUFFIX}"
