"""What is here, what is wrong with it, and how to mend it. ``examine`` changes nothing."""

import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from diffusion_local import __version__, gpus, permissions
from diffusion_local.catalog import Catalog
from diffusion_local.engine import inventory
from diffusion_local.errors import Conflict, DatabaseProblem, NotFound, UserError
from diffusion_local.exposure import closed, exposing
from diffusion_local.models.places import Places
from diffusion_local.settings import Settings
from diffusion_local.store import space
from diffusion_local.store.accounts import AccountStore
from diffusion_local.store.database import Database, check_integrity
from diffusion_local.store.files import LocalFiles
from diffusion_local.store.probe import Probe
from diffusion_local.store.sweep import rebuild
from diffusion_local.store.workers import WorkerStore

PACKAGES = ("gradio", "huey", "diffusers", "transformers", "torch", "sqlite-utils", "pillow")
LOW_DISK = 2 * 1024**3
TOO_MUCH_FREE = 100_000_000  # bytes of a database that only take room


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``mend`` says what to do where it is not ``ok``, ``grave`` whether pictures come at all."""

    name: str
    ok: bool
    text: str
    mend: str = ""
    grave: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a check that breaks is a finding, not a crash."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [
        versions,
        home,
        access,
        permitted,
        database,
        reclaimable,
        storage,
        devices,
        graphics,
        models,
        workers,
    ]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(settings)
        except (UserError, OSError, sqlite3.Error) as error:
            findings.append(Finding(check.__name__, False, str(error), "See the message."))
    return findings


def back_up(settings: Settings, target: Path) -> None:
    """Copy the database by SQLite's online backup. Raises Conflict if the target exists."""
    if target.exists():
        raise Conflict(f"{target} exists already; name a new file.")
    if not settings.database.exists():
        raise NotFound(f"There is no database in {settings.home}.")
    if not target.absolute().parent.is_dir():
        raise NotFound(f"There is no folder {target.parent}.")
    Database(settings.database).backup(target)


def rebuild_gallery(settings: Settings) -> int:
    """Write the gallery's missing rows from the recipes in the pictures; the number of rows written."""
    settings.make_folders()
    return rebuild(settings, Database.open(settings.database))


def versions(settings: Settings) -> Iterator[Finding]:
    yield Finding("diffusion-local", True, f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        try:
            yield Finding(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, False, "not installed", "Install diffusion-local again with its dependencies.")


def home(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "home", settings.home.is_dir(), str(settings.home), "It is made by the first `diffusion-local serve`."
    )
    if settings.home.is_dir():
        free = shutil.disk_usage(settings.home).free
        text = f"{free / 1024**3:.1f} GiB free"
        low = free < settings.disk_reserve_mb * 10**6
        yield Finding("disk", free > LOW_DISK, text, "Free some space: pictures and models need it.", low)


def access(settings: Settings) -> Iterator[Finding]:
    there = settings.database.exists() and AccountStore(Database(settings.database)).any()
    if closed(settings, there):
        text = f"others can reach this server ({exposing(settings)}), and it has no accounts"
        mend = "Add an account (diffusion-local user add NAME), or say --no-auth to let everybody do everything."
        yield Finding("access", False, text, mend)
    else:
        yield Finding("access", True, "everybody signs in" if there else "no accounts: nobody signs in")


def permitted(settings: Settings) -> Iterator[Finding]:
    """A gallery that others may read is taken for shared on purpose."""
    if not settings.home.is_dir():
        return
    found = permissions.shared(settings)
    names = ", ".join(path.name for path in found)
    mend = "`diffusion-local doctor --fix` closes all of these to them."
    if found:
        yield Finding("permissions", found == [settings.gallery], f"others may read {names}", mend, False)
    else:
        yield Finding("permissions", True, "only its owner may read the home")


def reclaimable(settings: Settings) -> Iterator[Finding]:
    if settings.database.exists():
        found = space.measure(Database(settings.database))
        text = f"{found.size / 1e6:.1f} MB, of which {found.free / 1e6:.1f} MB can be given back"
        mend = "It is given back each night, or by `diffusion-local doctor --fix`."
        yield Finding("space", not (found.worth_it and found.free > TOO_MUCH_FREE), text, mend, False)


def database(settings: Settings) -> Iterator[Finding]:
    if not settings.database.exists():
        yield Finding("database", True, "not made yet")
        return
    try:
        found = check_integrity(Database(settings.database))
    except DatabaseProblem as problem:  # where even the check cannot be run
        found = [problem.message]
    mend = (
        f"Stop diffusion-local, set {settings.database.name} and its -wal and -shm aside, then run `diffusion-local "
        "doctor --rebuild`: the gallery comes back from the recipes inside the pictures."
    )
    yield Finding("database", not found, "sound" if not found else "; ".join(found[:3]), mend)


def storage(settings: Settings) -> Iterator[Finding]:
    """Whether gallery and database can be written: it writes a small file to the one, a number to the other."""
    if settings.database.exists():
        database = Database(settings.database)
        found = Probe(database, LocalFiles(settings)).fault()
        yield Finding("storage", not found, found or "gallery and database can be written", "See the message.")


def devices(settings: Settings) -> Iterator[Finding]:
    found, warning = inventory.look(settings)
    for device in found:
        yield Finding(f"device {device['slot']}", True, device["words"])
    if warning:
        yield Finding("GPU", False, warning, "See the message.")


def graphics(settings: Settings) -> Iterator[Finding]:
    for gpu in gpus.read():
        hot = gpu.temperature is not None and 0 < settings.gpu_max_temp < gpu.temperature
        yield Finding(gpu.slot, not hot, gpu.words(), "Prompt lists rest until it is cooler; see to its fans.", False)


def models(settings: Settings) -> Iterator[Finding]:
    for model in Catalog(settings.starter, Places.of(settings)).all():
        text = f"{model.family}, {model.size_bytes / 1e6:.0f} MB" if model.ready else model.problem
        yield Finding(f"model {model.id}", model.ready, text, "Copy the model's folder into models/ again.", False)


def workers(settings: Settings) -> Iterator[Finding]:
    if not settings.database.exists():
        return
    for worker in WorkerStore(Database(settings.database)).all():
        yield Finding(f"worker {worker.slot}", True, f"{worker.status}, process {worker.pid}, seen {worker.seen_at}")
