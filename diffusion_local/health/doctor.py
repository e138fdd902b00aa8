"""Diagnosis of an installation: its components, problems and remedies. ``examine`` changes nothing."""

import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from diffusion_local import __version__
from diffusion_local.accounts.store import AccountStore
from diffusion_local.db import upkeep
from diffusion_local.db.database import DatabaseError, find_database, open_database
from diffusion_local.db.sqlite_connections import BUSY_SECONDS
from diffusion_local.engine import inventory
from diffusion_local.errors import Conflict, DatabaseProblem, InvalidParams, NotFound, UserError, message_of
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.sweep import rebuild
from diffusion_local.health.storage_checks import StorageProbe
from diffusion_local.messages import message
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.verdicts import PLACES
from diffusion_local.queue.huey_backends import open_huey, parse_url, queue_file, queue_url
from diffusion_local.queue.workers import WorkerStore
from diffusion_local.settings import Settings
from diffusion_local.styles import STYLES_FILE, read_styles
from diffusion_local.system import gpus, permissions
from diffusion_local.system.network import exposing_setting, refusal_reason

REPORTED_PACKAGES = ("gradio", "huey", "diffusers", "transformers", "torch", "sqlite-utils", "pillow")
LOW_DISK = 2 * 1024**3
#: Seconds to wait for a write: longer than it waits for a lock, so that the finding says the database is locked.
LOCK_PATIENCE = BUSY_SECONDS + 5
TOO_MUCH_FREE = 100_000_000  # free bytes in a database worth reporting


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. ``mend``: the remedy if not ``ok``; ``grave``: whether no pictures can be made."""

    name: str
    ok: bool
    text: str
    mend: str = ""
    grave: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings, files: ImageFiles) -> list[Finding]:
    """Run all checks; a check that raises becomes a finding."""

    def storage(settings: Settings) -> Iterator[Finding]:
        return storage_check(settings, files)

    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        versions,
        home,
        folders,
        styles,
        access,
        permitted,
        database,
        reclaimable,
        storage,
        message_queue,
        devices,
        graphics,
        models,
        workers,
    ]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(settings)
        except (UserError, OSError, DatabaseError) as error:
            findings.append(Finding(check.__name__, False, message_of(error), message("found_see")))
    return findings


def back_up(settings: Settings, target: Path) -> None:
    """Copy the database while it is in use. Raises Conflict if the target exists, NotFound if its folder or
    the database does not.
    """
    if target.exists():
        raise Conflict(message("file_exists", file=target))
    existing = find_database(settings)
    if existing is None:
        raise NotFound(message("no_database", folder=settings.home))
    if not target.absolute().parent.is_dir():
        raise NotFound(message("no_folder", folder=target.parent))
    existing.backup(target)


def rebuild_gallery(settings: Settings, files: ImageFiles) -> int:
    """Insert missing gallery rows from the recipes in the pictures; returns the number of rows."""
    settings.make_folders()
    return rebuild(files, open_database(settings))


def versions(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "diffusion-local",
        True,
        message("found_packages", version=__version__, python=platform.python_version(), system=platform.platform()),
    )
    for package in REPORTED_PACKAGES:
        try:
            yield Finding(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, False, message("found_not_installed"), message("mend_packages"))


def home(settings: Settings) -> Iterator[Finding]:
    yield Finding("home", settings.home.is_dir(), str(settings.home), message("found_first"))
    if settings.home.is_dir():
        free = shutil.disk_usage(settings.home).free
        text = message("found_free", size=free / 1e9)
        low = free < settings.disk_reserve_mb * 10**6
        yield Finding("disk", free > LOW_DISK, text, message("mend_disk"), low)


def folders(settings: Settings) -> Iterator[Finding]:
    """Folders of the home that this user cannot read; their files would be missing without an error."""
    names = ("models", *PLACES.values(), "wildcards", "gallery", "configs")
    closed = [name for name in names if is_closed(settings.home / name)]
    if closed:
        yield Finding("folders", False, message("found_closed", names=closed), message("mend_closed"))


def styles(settings: Settings) -> Iterator[Finding]:
    """A file of styles without a style: in another encoding or with other columns."""
    path = settings.home / STYLES_FILE
    if path.is_file() and path.stat().st_size and not read_styles(path):
        yield Finding("styles", False, message("found_styles"), message("mend_styles"), False)


def is_closed(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except PermissionError:
        return True
    except OSError:  # not there
        return False
    return False


def access(settings: Settings) -> Iterator[Finding]:
    database = find_database(settings)
    there = database is not None and AccountStore(database).exists_any()
    if refusal_reason(settings, there):
        text = message("found_reached", setting=exposing_setting(settings))
        mend = message("mend_reached")
        yield Finding("access", False, text, mend)
    else:
        yield Finding("access", True, message("found_sign_in") if there else message("found_no_accounts"))


def permitted(settings: Settings) -> Iterator[Finding]:
    """Files of the home that other users can read. A readable gallery is assumed to be shared on purpose."""
    if not settings.home.is_dir():
        return
    exposed = permissions.shared(settings)
    names = [path.name for path in exposed]
    mend = message("mend_shared")
    if exposed:
        yield Finding(
            "permissions", exposed == [settings.gallery_folder], message("found_shared", names=names), mend, False
        )
    else:
        yield Finding("permissions", True, message("found_private"))


def reclaimable(settings: Settings) -> Iterator[Finding]:
    database = find_database(settings)
    if database is not None and not database.on_server:
        found = upkeep.measure(database)
        text = message("found_space", size=found.size / 1000000.0, free=found.free / 1000000.0)
        mend = message("mend_space")
        yield Finding("space", not (found.worth_it and found.free > TOO_MUCH_FREE), text, mend, False)


def database(settings: Settings) -> Iterator[Finding]:
    try:
        database = find_database(settings)
        if database is None:
            yield Finding("database", True, message("found_no_database"))
            return
        problems = database.findings()
    except DatabaseProblem as problem:  # the check itself could not run
        if getattr(problem.message, "id", "") != "database_damaged":
            yield Finding("database", False, problem.message, message("found_see"))
            return
        problems = [problem.message]
    mend = message("found_see") if settings.database else message("rebuild", file=settings.database_file.name)
    text = problems[0] if len(problems) == 1 else "; ".join(problems[:3])
    yield Finding("database", not problems, text or message("found_sound"), mend)


def storage_check(settings: Settings, files: ImageFiles) -> Iterator[Finding]:
    """Whether gallery and database are writable; writes a small file and a number."""
    if database := find_database(settings):
        found = StorageProbe(database, files, patience=LOCK_PATIENCE).fault()
        yield Finding("storage", not found, found or message("found_writable"), message("found_see"))


def message_queue(settings: Settings) -> Iterator[Finding]:
    """Whether the queue that wakes workers is usable. Without it, workers find new jobs some seconds later."""
    if find_database(settings) is None:
        return
    url = queue_url(settings)
    try:
        waiting = open_huey(url, "doorbell").pending_count()
    except UserError as problem:
        own = queue_file(settings) is not None and not isinstance(problem, InvalidParams)
        mend = message("found_see") if own else message("queue_mend")
        yield Finding("queue", False, problem.message, mend, isinstance(problem, InvalidParams))
    else:
        yield Finding("queue", True, message("queue_well", url=parse_url(url).display, count=waiting))


def devices(settings: Settings) -> Iterator[Finding]:
    found, warning = inventory.inspect_devices(settings)
    for device in found:
        yield Finding(f"device {device['slot']}", True, device["words"])
    if warning:
        yield Finding("GPU", False, warning, message("found_see"))


def graphics(settings: Settings) -> Iterator[Finding]:
    for gpu in gpus.read():
        hot = gpu.temperature is not None and 0 < settings.gpu_max_temp < gpu.temperature
        yield Finding(gpu.slot, not hot, gpu.summary(), message("mend_hot"), False)


def models(settings: Settings) -> Iterator[Finding]:
    for model in Catalog(settings.starter, ModelDirectories.from_settings(settings)).all():
        text = f"{model.family}, {model.size_bytes / 1e6:.0f} MB" if model.ready else model.problem
        yield Finding(f"model {model.id}", model.ready, text, message("mend_model"), False)


def workers(settings: Settings) -> Iterator[Finding]:
    database = find_database(settings)
    for worker in WorkerStore(database).list_all() if database else ():
        yield Finding(
            f"worker {worker.slot}",
            True,
            message("found_worker", status=worker.status, process=worker.pid, seen=worker.seen_at),
        )
