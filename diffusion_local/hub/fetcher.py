"""One download from start to end, and the next one, until none waits. Runs in the supervisor's process.

Files come to lie in a hidden folder and are moved to their place when all of them are there and checked; a download
that broke off goes on from there.
"""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from diffusion_local import modes
from diffusion_local.errors import DatabaseProblem, HubProblem
from diffusion_local.hub import choice
from diffusion_local.hub.client import FIRST_PAUSE, Hub, Listing, RemoteFile
from diffusion_local.messages import Message, message
from diffusion_local.models.folders import ORIGIN
from diffusion_local.settings import Settings, hub_endpoint, hub_token
from diffusion_local.store.downloads import Download, DownloadStore

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
MB = 1_000_000


class Cancelled(Exception):
    """A person stopped it."""


class Interrupted(Exception):
    """This process is about to end."""


class Fetcher:
    """``loaded`` is called with each download that has come to its end well."""

    def __init__(self, settings: Settings, store: DownloadStore, pause: float = FIRST_PAUSE) -> None:
        self._settings = settings
        self._store = store
        self._pause = pause
        self._stop = threading.Event()

    def run(self) -> None:
        """Load whatever waits, one after the other."""
        while not self._stop.is_set() and (download := self._store.claim()):
            self._fetch(download)

    def stop(self) -> None:
        """End at the next piece; what is loaded so far is kept."""
        self._stop.set()

    def _fetch(self, download: Download) -> None:
        log.info("download of %s begins", download.repo)
        hub = Hub(hub_endpoint(self._settings), hub_token(self._settings), self._pause, self._stop)
        try:
            size = self._load(hub, download)
            self._store.finish(download.id, size)
            log.info("download of %s is done", download.repo)
        except Cancelled:
            discard(self._staging(download))
            self._store.stop(download.id)
        except Interrupted:
            self._store.recover()
        except HubProblem as problem:
            if self._stop.is_set():  # cut short by our own end
                self._store.recover()
            else:
                self._failed(download, problem.kind, problem.message)
        except OSError as error:
            kind = "no_space" if error.errno == 28 else "disk"
            self._failed(download, kind, message("download_unsaved", error=error.strerror))
        except DatabaseProblem:
            raise
        except Exception as error:
            log.exception("download of %s failed", download.repo)
            self._failed(download, "hub_error", message("download_fault", error=type(error).__name__))
        finally:
            hub.close()

    def _failed(self, download: Download, kind: str, problem: Message) -> None:
        log.warning("download of %s failed: %s", download.repo, problem)
        self._store.fail(download.id, kind, problem)

    def _load(self, hub: Hub, download: Download) -> int:
        """The bytes that the finished download has."""
        listing = hub.listing(download.repo, download.revision)
        staging = self._staging(download)
        if download.file:
            files = [choice.single_file(listing, download.file)]
        elif listing.file(choice.INDEX):
            files = choice.files_of_model(listing, hub.small(listing, choice.INDEX))
        else:
            raise choice.no_index(listing)
        total = sum(file.size for file in files)
        progress = Progress(self._store, download, total, lambda: self._check(staging, 0))
        missing = [file for file in files if not is_there(staging, file)]
        progress.before = total - sum(file.size for file in missing)
        self._check(staging, sum(file.size - part_size(staging, file) for file in missing))
        progress(0, now=True)
        for file in missing:
            hub.fetch(listing, file, staging / file.path, progress)
            progress.before += file.size
        self._settle(download, listing, staging, files)
        return total

    def _check(self, staging: Path, needed: int) -> None:
        """Raises HubProblem if the disk has not so many bytes beside the reserve, Interrupted if we are to stop."""
        if self._stop.is_set():
            raise Interrupted
        free = shutil.disk_usage(existing(staging)).free - self._settings.disk_reserve_mb * MB
        if free < needed or free <= 0:
            raise HubProblem(
                kind="no_space",
                message=message(
                    "hub_room", needed=needed / 1e9, free=max(0, free) / 1e9, reserve=self._settings.disk_reserve_mb
                ),
            )

    def _settle(self, download: Download, listing: Listing, staging: Path, files: list[RemoteFile]) -> None:
        """Move what is complete to its place."""
        target = self._settings.home / download.folder / download.name
        if target.exists():
            raise HubProblem(kind="exists", message=message("there_already", path=f"{download.folder}/{download.name}"))
        if download.file:
            modes.share_like(staging / files[0].path, target.parent)
            (staging / files[0].path).replace(target)
            discard(staging)
            return
        origin = {"repo": listing.repo, "commit": listing.commit, "licence": listing.licence}
        (staging / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        modes.share_like(staging, target.parent)
        staging.replace(target)

    def _staging(self, download: Download) -> Path:
        return self._settings.home / download.folder / f".{download.name}.download"


class Progress:
    """Counts bytes, writes them down now and then, and stops the download if it was cancelled."""

    def __init__(self, store: DownloadStore, download: Download, total: int, check: Callable[[], None]) -> None:
        self._store = store
        self._download = download
        self._total = total
        self._check = check
        self._reported = 0.0
        self.before = 0  # bytes of the files that are done

    def __call__(self, of_file: int, now: bool = False) -> None:
        if not now and time.monotonic() - self._reported < REPORT_SECONDS:
            return
        self._reported = time.monotonic()
        self._check()
        if self._store.report(self._download.id, self.before + of_file, self._total):
            raise Cancelled


def is_there(staging: Path, file: RemoteFile) -> bool:
    """A file has its name without `.part` only once it was checked."""
    try:
        return (staging / file.path).stat().st_size == file.size
    except OSError:
        return False


def part_size(staging: Path, file: RemoteFile) -> int:
    path = staging / f"{file.path}.part"
    return min(path.stat().st_size, file.size) if path.exists() else 0


def existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return path if path.exists() else existing(path.parent)


def discard(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
