"""Executes waiting downloads one after the other. Runs in the supervisor.

Files are downloaded to a hidden folder and moved to their destination once all of them are complete and verified; an
interrupted download resumes from the hidden folder.
"""

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from diffusion_local import disk
from diffusion_local.errors import DatabaseProblem, HubProblem, echo
from diffusion_local.hub.client import FIRST_PAUSE, Hub, Listing, RemoteFile
from diffusion_local.hub.downloads import Download, DownloadStore, is_link, is_weights
from diffusion_local.hub.file_urls import Links
from diffusion_local.messages import Message, message
from diffusion_local.models.file_formats import WEIGHT_SUFFIXES
from diffusion_local.models.folders import ORIGIN
from diffusion_local.models.integrity import UNUSED, is_component
from diffusion_local.settings import Settings, hub_endpoint, hub_token

INDEX = "model_index.json"
CONFIG_SUFFIXES = (".json", ".txt", ".model", ".jinja")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
#: Variants of the same weights, smallest first; the last one has no suffix.
WEIGHT_VARIANTS = (".fp16", ".bf16", "")
VARIANT = re.compile(r"\.(fp16|bf16|non_ema|ema_only|fp32)\b")
REPORT_SECONDS = 0.5
MB = 1_000_000


def files_of_model(listing: Listing, index: dict[str, Any]) -> list[RemoteFile]:
    """The files needed from a diffusers folder with this ``model_index.json``. Raises HubProblem."""
    chosen = [file for file in listing.files if file.path == INDEX]
    for name, spec in index.items():
        if is_component(spec) and name not in UNUSED:
            inside = [file for file in listing.files if file.path.startswith(f"{name}/") and file.path.count("/") == 1]
            chosen += light_files(inside) + weights(listing.repo, name, inside)
    if len(chosen) < 2:
        raise HubProblem(kind="not_a_model", message=message("hub_no_parts", repo=listing.repo))
    return chosen


def light_files(inside: list[RemoteFile]) -> list[RemoteFile]:
    return [file for file in inside if file.path.endswith(CONFIG_SUFFIXES) and ".index." not in file.path]


def weights(repo: str, name: str, inside: list[RemoteFile]) -> list[RemoteFile]:
    """One variant of a component's weights, with the index of its shards. Raises HubProblem."""
    tensors = [file for file in inside if file.path.endswith(".safetensors")]
    if not tensors:
        if any(file.path.endswith(PICKLED) for file in inside):
            raise HubProblem(kind="pickle", message=message("pickle_part", repo=repo, name=name))
        return []
    for variant in WEIGHT_VARIANTS:
        found = [file for file in inside if is_weight(file) and variants_of(file) == ({variant} if variant else set())]
        if any(file.path.endswith(".safetensors") for file in found):
            return found
    return tensors


def is_weight(file: RemoteFile) -> bool:
    return file.path.endswith(".safetensors") or (".safetensors.index" in file.path and file.path.endswith(".json"))


def variants_of(file: RemoteFile) -> set[str]:
    return {f".{found}" for found in VARIANT.findall(file.path)}


def single_file(listing: Listing, path: str) -> RemoteFile:
    """The file of a single-file model. Raises HubProblem."""
    file = listing.file(path)
    if file is None:
        there = weight_paths(listing)[:8]
        raise HubProblem(
            kind="unknown_file",
            message=message("hub_has_no_file", repo=listing.repo, path=echo(path), known=", ".join(there) or "none"),
        )
    return file


def weight_paths(listing: Listing) -> list[str]:
    """Paths of a repository's weights files, safetensors first."""
    return sorted(
        (each.path for each in listing.files if is_weights(each.path)),
        key=lambda path: WEIGHT_SUFFIXES.index(PurePosixPath(path).suffix.lower()),
    )


def no_index(listing: Listing) -> HubProblem:
    """The error for a repository without model_index.json, naming the weights files that it offers."""
    there = weight_paths(listing)
    if there:
        return HubProblem(
            kind="not_a_model",
            message=message("hub_one_of", repo=listing.repo, known=list(there[:8])),
        )
    return HubProblem(kind="not_a_model", message=message("hub_no_model", repo=listing.repo))


log = logging.getLogger(__name__)


class Cancelled(Exception):
    """A user cancelled the download."""


class Interrupted(Exception):
    """This process is stopping."""


class Fetcher:
    """Downloads models; one per supervisor."""

    def __init__(self, settings: Settings, store: DownloadStore, pause: float = FIRST_PAUSE) -> None:
        self._settings = settings
        self._store = store
        self._pause = pause
        self._stop = threading.Event()

    def run(self) -> None:
        """Run waiting downloads until there are none."""
        while not self._stop.is_set() and (download := self._store.claim()):
            self._fetch(download)

    def stop(self) -> None:
        """Stop at the next chunk; downloaded data is kept."""
        self._stop.set()

    def _fetch(self, download: Download) -> None:
        log.info("download of %s begins", download.source)
        try:
            if is_link(download.repo):
                self._load_link(download)
            else:
                self._load_from_hub(download)
            log.info("download of %s is done", download.source)
        except Cancelled:
            discard(self._staging(download))
            self._store.stop(download.id)
        except Interrupted:
            self._store.recover()
        except HubProblem as problem:
            if self._stop.is_set():  # interrupted because this process is stopping
                self._store.recover()
            else:
                self._fail(download, problem.kind, problem.message)
        except OSError as error:
            kind = "no_space" if error.errno == 28 else "disk"
            self._fail(download, kind, message("download_unsaved", error=error.strerror))
        except DatabaseProblem:
            raise
        except Exception as error:
            log.exception("download of %s failed", download.source)
            self._fail(download, "hub_error", message("download_fault", error=type(error).__name__))

    def _fail(self, download: Download, kind: str, problem: Message) -> None:
        log.warning("download of %s failed: %s", download.source, problem)
        self._store.fail(download.id, kind, problem)

    def _load_from_hub(self, download: Download) -> None:
        with closing(Hub(hub_endpoint(self._settings), hub_token(self._settings), self._pause, self._stop)) as hub:
            self._store.finish(download.id, self._load(hub, download))

    def _load_link(self, download: Download) -> None:
        """Download the file of a URL or of a version on Civitai."""
        with closing(Links(self._settings, self._pause, self._stop)) as links:
            link = links.resolve(download.repo, download.file, download.name, download.digest)
            folder = link.folder if link.folder and download.folder == "models" else download.folder
            target, staging = self._settings.home / folder / link.name, self._staging(download)
            if target.exists():
                raise HubProblem(kind="exists", message=message("there_already", path=f"{folder}/{link.name}"))
            progress = Progress(self._store, download, 0, lambda: self._check(staging, 0))

            def on_bytes(have: int, total: int) -> None:
                progress.total = total
                progress(have)

            digest = links.fetch(link, staging / link.name, on_bytes, lambda coming: self._check(staging, coming))
            size = (staging / link.name).stat().st_size
            move_file(staging / link.name, target)
            discard(staging)
            self._store.finish(download.id, size, folder=folder, name=link.name, digest=digest)

    def _load(self, hub: Hub, download: Download) -> int:
        """Download all files; returns their size in bytes."""
        listing = hub.listing(download.repo, download.revision)
        staging = self._staging(download)
        if download.file:
            files = [single_file(listing, download.file)]
        elif listing.file(INDEX):
            files = files_of_model(listing, hub.read_json(listing, INDEX))
        else:
            raise no_index(listing)
        total = sum(file.size for file in files)
        progress = Progress(self._store, download, total, lambda: self._check(staging, 0))
        missing = [file for file in files if not is_complete(staging, file)]
        progress.before = total - sum(file.size for file in missing)
        self._check(staging, sum(file.size - part_size(staging, file) for file in missing))
        progress(0, now=True)
        for file in missing:
            hub.fetch(listing, file, staging / file.path, progress)
            progress.before += file.size
        self._install(download, listing, staging, files)
        return total

    def _check(self, staging: Path, needed: int) -> None:
        """Raise HubProblem if the disk lacks ``needed`` bytes in addition to the reserve, Interrupted if stopping."""
        if self._stop.is_set():
            raise Interrupted
        free = shutil.disk_usage(nearest_existing(staging)).free - self._settings.disk_reserve_mb * MB
        if free < needed or free <= 0:
            raise HubProblem(
                kind="no_space",
                message=message(
                    "hub_room", needed=needed / 1e9, free=max(0, free) / 1e9, reserve=self._settings.disk_reserve_mb
                ),
            )

    def _install(self, download: Download, listing: Listing, staging: Path, files: list[RemoteFile]) -> None:
        """Move the complete download to its destination. Raises HubProblem if that exists."""
        target = self._settings.home / download.folder / download.name
        if target.exists():
            raise HubProblem(kind="exists", message=message("there_already", path=f"{download.folder}/{download.name}"))
        if download.file:
            move_file(staging / files[0].path, target)
            discard(staging)
            return
        origin = {"repo": listing.repo, "commit": listing.commit, "licence": listing.licence}
        (staging / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        disk.share_like(staging, target.parent)
        staging.replace(target)

    def _staging(self, download: Download) -> Path:
        return self._settings.home / download.folder / f".{download.name}.download"


class Progress:
    """Counts bytes, records them periodically, and stops a cancelled download."""

    def __init__(self, store: DownloadStore, download: Download, total: int, check: Callable[[], None]) -> None:
        self._store = store
        self._download = download
        self.total = total
        self._check = check
        self._reported = 0.0
        self.before = 0  # bytes of completed files

    def __call__(self, of_file: int, now: bool = False) -> None:
        if not now and time.monotonic() - self._reported < REPORT_SECONDS:
            return
        self._reported = time.monotonic()
        self._check()
        if self._store.report(self._download.id, self.before + of_file, self.total):
            raise Cancelled


def is_complete(staging: Path, file: RemoteFile) -> bool:
    """Whether a file is complete: the `.part` suffix is removed once it is verified."""
    try:
        return (staging / file.path).stat().st_size == file.size
    except OSError:
        return False


def part_size(staging: Path, file: RemoteFile) -> int:
    path = staging / f"{file.path}.part"
    return min(path.stat().st_size, file.size) if path.exists() else 0


def nearest_existing(path: Path) -> Path:
    """``path`` or its nearest existing parent."""
    return path if path.exists() else nearest_existing(path.parent)


def move_file(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    disk.share_like(file, target.parent)
    file.replace(target)


def discard(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
