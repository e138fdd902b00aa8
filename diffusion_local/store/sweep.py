"""Brings the gallery folder and the images table together after the worst. Moves strays aside; deletes no picture."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PIL

from diffusion_local.domain import Image, Params, State
from diffusion_local.settings import Settings
from diffusion_local.store import recipe, rows
from diffusion_local.store.database import Database
from diffusion_local.store.encoding import SUFFIXES
from diffusion_local.store.files import picture_path

log = logging.getLogger(__name__)

FEW_GONE = 10  # as many may well have been deleted by hand
OLD_PART_SECONDS = 3600.0  # a half-written file of a process that died; a living one is done in seconds


@dataclass(frozen=True, slots=True)
class Swept:
    """Keys of pictures without a row, which were moved to ``strays/``, and ids of rows without a file."""

    strays: list[str]
    missing: list[str]


def sweep(settings: Settings, database: Database) -> Swept:
    """Move pictures that no row knows to ``strays/``, put rows whose file is gone into the trash.

    A picture whose job is still queued or running is left alone: its row may be written in this very moment.
    """
    strays = []
    for key, path in pictures(settings.gallery):
        if not known(database, id_of(path)):
            target = picture_path(settings.strays, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            for beside in (".webp", ".json"):
                path.with_name(id_of(path) + beside).unlink(missing_ok=True)
            strays.append(key)
            log.warning("a picture without a row was moved aside: %s", key)
    drop_parts(settings.gallery)
    drop_lone_companions(settings.gallery, database)
    return Swept(strays, trash_missing(settings, database))


def known(database: Database, image_id: str) -> bool:
    with database.read() as db:
        found = db.execute(
            "SELECT 1 FROM images WHERE id = :id "
            "UNION SELECT 1 FROM jobs WHERE id = :id AND state IN (:queued, :running)",
            {"id": image_id, "queued": State.QUEUED, "running": State.RUNNING},
        ).fetchone()
    return found is not None


def trash_missing(settings: Settings, database: Database) -> list[str]:
    """Ids of rows without a file, now in the trash. Where most files are gone it is rather the drive that is."""
    with database.read() as db:
        shown = db.execute("SELECT id, key FROM images WHERE trashed_at IS NULL").fetchall()
    gone = [image_id for image_id, key in shown if not picture_path(settings.gallery, key).exists()]
    if len(gone) > FEW_GONE and len(gone) * 2 > len(shown):
        log.error("most pictures' files are gone: is the gallery's drive there? Nothing was changed.")
        return []
    with database.write() as db:
        for image_id in gone:
            db.execute("UPDATE images SET trashed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE id = ?", [image_id])
            log.warning("the file of picture %s is gone; its row is in the trash", image_id)
    return gone


def pictures(gallery: Path) -> Iterator[tuple[str, Path]]:
    """(key, path) of every picture below the gallery, hidden files left out."""
    for path in sorted(path for suffix in SUFFIXES.values() for path in gallery.glob(f"*/*/*/*{suffix}")):
        if not path.name.startswith("."):
            yield path.relative_to(gallery).as_posix().removesuffix(".png"), path


def id_of(path: Path) -> str:
    return path.name.split(".", 1)[0]


def drop_parts(gallery: Path) -> None:
    for part in gallery.glob("*/*/*/.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > OLD_PART_SECONDS:
                part.unlink()


def drop_lone_companions(gallery: Path, database: Database) -> None:
    """A worker that died between a thumbnail or sidecar and its picture leaves one; a job that goes on will need it."""
    for beside in (*gallery.glob("*/*/*/*.webp"), *gallery.glob("*/*/*/*.json")):
        alone = beside.suffixes in ([".webp"], [".json"]) and not any(
            beside.with_suffix(suffix).exists() for suffix in SUFFIXES.values()
        )
        if alone and not known(database, beside.stem):
            beside.unlink(missing_ok=True)


def rebuild(settings: Settings, database: Database) -> int:
    """Write rows for pictures that have none, from the recipes they carry; the number of rows written."""
    bring_back(settings, database)
    written = 0
    for key, path in pictures(settings.gallery):
        image = from_picture(key, path)
        if image is None:
            continue
        with database.write() as db:
            values = rows.image_row(image)
            names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
            written += db.execute(f"INSERT OR IGNORE INTO images ({names}) VALUES ({marks})", values).rowcount
    return written


def bring_back(settings: Settings, database: Database) -> None:
    """Strays of a job that the table does not know were swept after the database was lost, or set back to a backup."""
    for key, path in pictures(settings.strays):
        with database.read() as db:
            own = db.execute("SELECT 1 FROM jobs WHERE id = ?", [id_of(path)]).fetchone() is not None
        target = picture_path(settings.gallery, key)
        if not own and not target.exists() and from_picture(key, path) is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def from_picture(key: str, path: Path) -> Image | None:
    """The Image that a file's own recipe describes, or None if it carries none."""
    try:
        with PIL.open(path) as picture:
            found = recipe.read(picture)
            size = picture.size
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for damaged files
        found = None
    if found is None:
        log.warning("%s carries no recipe that can be read", key)
        return None
    return Image(
        id=found["id"],
        job_id=found["job_id"],
        key=key,
        params=Params.from_dict(found["params"]),
        width=size[0],
        height=size[1],
        bytes=path.stat().st_size,
        created_at=found["created_at"],
        seconds=found.get("seconds", 0.0),
        facts=found["facts"] if isinstance(found.get("facts"), dict) else {},
    )
