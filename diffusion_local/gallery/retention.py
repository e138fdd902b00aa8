"""What is let go after its time: ended jobs, the trash, previews, source pictures; and the database's own upkeep."""

import contextlib
import math
import time
from datetime import datetime, timedelta

from diffusion_local.db.database import Database
from diffusion_local.db.dialect import json_field
from diffusion_local.domain import utc_now, utc_text
from diffusion_local.errors import StorageProblem
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.settings import Settings

BACK = timedelta(hours=1)  # that a clock may be set back without a doubt
FORTH = timedelta(days=2)  # that may have passed since the last look
TRUSTED_AFTER = timedelta(days=7)


def trusted(database: Database) -> bool:
    """Note the time of day, and tell whether it agrees with the times noted before. Call it every few hours."""
    now = datetime.fromisoformat(utc_now())
    with database.write() as db:
        at, doubted = db.execute("SELECT at, doubted_at FROM clock").fetchone()
        last = datetime.fromisoformat(at) if at else now
        since = datetime.fromisoformat(doubted) if doubted else None
        if now < last - BACK or (since is None and now > last + FORTH):
            since = now
        elif since is not None and now - since >= TRUSTED_AFTER:
            since = None
        db.execute("UPDATE clock SET at = ?, doubted_at = ?", [utc_text(now), utc_text(since) if since else ""])
    return since is None


OLD_PREVIEW_SECONDS = 3600.0
DAY = 86400.0
REMEMBERED_DAYS = 365  # that something was deleted
BATCH = 500  # rows a transaction, so that a worker's report never waits long


def days_ago(days: int) -> str:
    return utc_text(datetime.fromisoformat(utc_now()) - timedelta(days=days))


def forget_old_jobs(settings: Settings, database: Database) -> int:
    """Delete jobs that ended more than ``keep_jobs_days`` ago, with their history; their pictures stay."""
    if not settings.keep_jobs_days:
        return 0
    gone = 0
    while True:
        with database.write() as db:
            old = [
                row[0]
                for row in db.execute(
                    # Both times: one that ended before it was submitted ended while the clock was wrong.
                    "SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before LIMIT :most",
                    {"before": days_ago(settings.keep_jobs_days), "most": BATCH},
                ).fetchall()
            ]
            for job_id in old:
                db.execute("DELETE FROM job_events WHERE job_id = ?", [job_id])
                db.execute("DELETE FROM jobs WHERE id = ?", [job_id])
            db.execute("DELETE FROM batches WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE batch_id = batches.id)")
        gone += len(old)
        if len(old) < BATCH:
            return gone


def forget_deleted(database: Database) -> int:
    """Forget the ids of what was deleted over REMEMBERED_DAYS ago."""
    with database.write() as db:
        return db.execute("DELETE FROM deleted WHERE at < ?", [days_ago(REMEMBERED_DAYS)]).rowcount


def empty_trash(settings: Settings, database: Database, files: ImageFiles) -> int:
    """Delete pictures that are in the trash for over ``keep_trash_days``; the row first, so that none lacks a file."""
    if not settings.keep_trash_days:
        return 0
    with database.write() as db:
        # Put into the trash before it was made, or in times to come: the clock was wrong, so its time begins now.
        db.execute(
            "UPDATE images SET trashed_at = :now WHERE trashed_at IS NOT NULL "
            "AND (trashed_at < created_at OR trashed_at > :now)",
            {"now": utc_now()},
        )
        old = db.execute(
            "SELECT id, key FROM images WHERE trashed_at < ?", [days_ago(settings.keep_trash_days)]
        ).fetchall()
    for image_id, key in old:
        with database.write() as db:
            deleted = db.execute("DELETE FROM images WHERE id = ? AND trashed_at IS NOT NULL", [image_id]).rowcount
        if deleted:
            files.discard(key)
    return len(old)


def drop_old_sources(settings: Settings, database: Database, files: ImageFiles) -> int:
    """Delete source pictures that nothing refers to and nobody used for ``keep_sources_days``."""
    if not settings.keep_sources_days:
        return 0
    before = time.time() - settings.keep_sources_days * DAY
    old = [source_id for source_id, stat in files.sources() if stat.modified < before]
    if not old:
        return 0
    with database.read() as db:
        kept = {
            row[0]
            for table in ("jobs", "images")
            for name in ("source", "mask")
            for row in db.execute(f"SELECT DISTINCT {json_field('params', name)} FROM {table}").fetchall()
        }
    dropped = 0
    for source_id in old:
        file = files.source(source_id)
        if source_id not in kept and modified(file) < before:  # a submit touches what it names
            with database.write() as db:
                db.execute("DELETE FROM source_owners WHERE source_id = ?", [source_id])
            file.delete()
            dropped += 1
    return dropped


def drop_old_previews(files: ImageFiles) -> int:
    """Delete previews that a worker which died left behind."""
    dropped = 0
    for preview, stat in list(files.previews()):
        if time.time() - stat.modified > OLD_PREVIEW_SECONDS:
            with contextlib.suppress(OSError, StorageProblem):  # the next night tries again
                preview.delete()
                dropped += 1
    return dropped


def modified(file: StoredFile) -> float:
    """When a file was changed last, in seconds since 1970; infinity if it has gone meanwhile."""
    try:
        return file.stat().modified
    except FileNotFoundError:
        return math.inf


def optimize(database: Database) -> None:
    """Let SQLite refresh its statistics and fold the write-ahead log back."""
    database.upkeep()
