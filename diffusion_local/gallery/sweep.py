"""Brings the gallery's files and the images table together after the worst. Moves strays aside; deletes no picture."""

import logging
from dataclasses import dataclass

from PIL import Image as PIL

from diffusion_local.db import rows
from diffusion_local.db.database import Database, insert_sql
from diffusion_local.domain import Image, Params, State, utc_now
from diffusion_local.gallery import recipes
from diffusion_local.gallery.blobs import Area, StoredFile
from diffusion_local.gallery.files import ImageFiles, id_of

log = logging.getLogger(__name__)

FEW_GONE = 10  # as many may well have been deleted by hand


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Keys of pictures without a row, which were moved to the strays, and ids of rows without a file."""

    strays: list[str]
    missing: list[str]


def sweep(files: ImageFiles, database: Database) -> SweepResult:
    """Move pictures that no row knows to the strays, put rows whose file is gone into the trash.

    A picture whose job is still queued or running is left alone: its row may be written in this very moment.
    """
    strays, there = [], set()
    for key in files.pictures():
        if known(database, id_of(key)):
            there.add(key)
        else:
            files.set_aside(key)
            strays.append(key)
            log.warning("a picture without a row was moved aside: %s", key)
    files.drop_unfinished()
    for companion in files.lone_companions():
        if not known(database, id_of(companion.name)):  # else its job goes on and will need it
            companion.delete()
    return SweepResult(strays, trash_missing(files, database, there))


def known(database: Database, image_id: str) -> bool:
    with database.read() as db:
        found = db.execute(
            "SELECT 1 FROM images WHERE id = :id "
            "UNION SELECT 1 FROM jobs WHERE id = :id AND state IN (:queued, :running)",
            {"id": image_id, "queued": State.QUEUED, "running": State.RUNNING},
        ).fetchone()
    return found is not None


def trash_missing(files: ImageFiles, database: Database, there: set[str]) -> list[str]:
    """Ids of rows without a file, now in the trash. Where most files are gone it is rather the drive that is.

    ``there`` are keys that need not be looked for again; a picture may have been saved since they were listed.
    """
    with database.read() as db:
        shown = db.execute("SELECT id, key FROM images WHERE trashed_at IS NULL").fetchall()
    gone = [image_id for image_id, key in shown if key not in there and not files.picture(key).exists()]
    if len(gone) > FEW_GONE and len(gone) * 2 > len(shown):
        log.error("most pictures' files are gone: is the gallery's drive there? Nothing was changed.")
        return []
    with database.write() as db:
        for image_id in gone:
            db.execute("UPDATE images SET trashed_at = ? WHERE id = ?", [utc_now(), image_id])
            log.warning("the file of picture %s is gone; its row is in the trash", image_id)
    return gone


def rebuild(files: ImageFiles, database: Database) -> int:
    """Write rows for pictures that have none, from the recipes they carry; the number of rows written."""
    bring_back(files, database)
    written = 0
    for key in files.pictures():
        image = from_picture(key, files.picture(key))
        if image is None:
            continue
        with database.write() as db:
            values = rows.image_row(image)
            written += db.execute(f"{insert_sql('images', values)} ON CONFLICT DO NOTHING", values).rowcount
    return written


def bring_back(files: ImageFiles, database: Database) -> None:
    """Strays of a job that the table does not know were swept after the database was lost, or set back to a backup."""
    for key in list(files.pictures(Area.STRAYS)):
        with database.read() as db:
            own = db.execute("SELECT 1 FROM jobs WHERE id = ?", [id_of(key)]).fetchone() is not None
        if not own and not files.picture(key).exists() and from_picture(key, files.stray(key)) is not None:
            files.bring_back(key)


def from_picture(key: str, file: StoredFile) -> Image | None:
    """The Image that a file's own recipe describes, or None if it carries none."""
    try:
        with file.open() as opened, PIL.open(opened) as picture:
            found = recipes.read(picture)
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
        bytes=file.stat().size,
        created_at=found["created_at"],
        seconds=found.get("seconds", 0.0),
        facts=found["facts"] if isinstance(found.get("facts"), dict) else {},
    )
