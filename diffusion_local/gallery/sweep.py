"""Reconciles the gallery's files with the images table. Moves stray files aside; deletes no pictures."""

import logging
from dataclasses import dataclass

from PIL import Image as PIL

from diffusion_local.db import rows, search
from diffusion_local.db.database import Database, insert_sql
from diffusion_local.domain import Image, State, utc_now
from diffusion_local.gallery import recipes
from diffusion_local.gallery.blobs import Area, StoredFile
from diffusion_local.gallery.files import ImageFiles, job_id_of
from diffusion_local.options.table import Params

log = logging.getLogger(__name__)

MAX_DELETED_BY_HAND = 10  # up to this many missing files may have been deleted by hand


@dataclass(frozen=True, slots=True)
class SweepResult:
    """``strays``: keys of pictures without a row, moved aside; ``missing``: ids of rows without a file."""

    strays: list[str]
    missing: list[str]


def sweep(files: ImageFiles, database: Database) -> SweepResult:
    """Move pictures without a row to the strays, and rows without a file to the trash.

    Pictures whose job is queued or running are skipped, because their row may be written at this moment.
    """
    strays, present = [], set()
    for key in files.pictures():
        if is_known(database, job_id_of(key)):
            present.add(key)
        else:
            files.set_aside(key)
            strays.append(key)
            log.warning("a picture without a row was moved aside: %s", key)
    files.drop_unfinished()
    for companion in files.orphaned_companions():
        if not is_known(database, job_id_of(companion.name)):  # otherwise its job is still running and will need it
            companion.delete()
    return SweepResult(strays, trash_missing(files, database, present))


def is_known(database: Database, image_id: str) -> bool:
    with database.read() as db:
        row = db.execute(
            "SELECT 1 FROM images WHERE id = :id "
            "UNION SELECT 1 FROM jobs WHERE id = :id AND state IN (:queued, :running)",
            {"id": image_id, "queued": State.QUEUED, "running": State.RUNNING},
        ).fetchone()
    return row is not None


def trash_missing(files: ImageFiles, database: Database, present: set[str]) -> list[str]:
    """Move rows without a file to the trash; returns their ids. If most files are gone, the drive is assumed missing.

    ``present``: keys known to exist; a picture may have been saved since they were listed.
    """
    with database.read() as db:
        rows_listed = db.execute("SELECT id, key FROM images WHERE trashed_at IS NULL").fetchall()
    gone = [image_id for image_id, key in rows_listed if key not in present and not files.picture(key).exists()]
    if len(gone) > MAX_DELETED_BY_HAND and len(gone) * 2 > len(rows_listed):
        log.error("most picture files are missing: is the gallery's drive mounted? Nothing was changed.")
        return []
    with database.write() as db:
        for image_id in gone:
            db.execute("UPDATE images SET trashed_at = ? WHERE id = ?", [utc_now(), image_id])
            log.warning("the file of picture %s is missing; its row was moved to the trash", image_id)
    return gone


def rebuild(files: ImageFiles, database: Database) -> int:
    """Insert rows for pictures that have none, from their embedded recipes; returns the number."""
    restore_strays(files, database)
    written = 0
    for key in files.pictures():
        image = read_image(key, files.picture(key))
        if image is None:
            continue
        with database.write() as db:
            values = rows.image_row(image)
            added = db.execute(f"{insert_sql('images', values)} ON CONFLICT DO NOTHING", values).rowcount
            if added:
                search.add(db, image.id, image.params.prompt)
            written += added
    return written


def restore_strays(files: ImageFiles, database: Database) -> None:
    """Restore strays of unknown jobs: they were swept after the database was lost or restored from a backup."""
    for key in list(files.pictures(Area.STRAYS)):
        with database.read() as db:
            own = db.execute("SELECT 1 FROM jobs WHERE id = ?", [job_id_of(key)]).fetchone() is not None
        if not own and not files.picture(key).exists() and read_image(key, files.stray(key)) is not None:
            files.restore_stray(key)


def read_image(key: str, file: StoredFile) -> Image | None:
    """The Image described by a file's embedded recipe, or None."""
    try:
        with file.open() as opened, PIL.open(opened) as picture:
            recipe = recipes.read_json(picture)
            size = picture.size
    except (OSError, ValueError, SyntaxError):  # raised by Pillow for damaged files
        recipe = None
    if recipe is None:
        log.warning("%s has no readable recipe", key)
        return None
    return Image(
        id=recipe["id"],
        job_id=recipe["job_id"],
        key=key,
        params=Params.from_dict(recipe["params"]),
        width=size[0],
        height=size[1],
        bytes=file.stat().size,
        created_at=recipe["created_at"],
        seconds=recipe.get("seconds", 0.0),
        facts=recipe["facts"] if isinstance(recipe.get("facts"), dict) else {},
    )
