"""Deletes expired data: ended jobs, trash, previews, unused source pictures."""

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
from diffusion_local.options.table import PICTURES
from diffusion_local.settings import Settings

BACK = timedelta(hours=1)  # largest plausible step of the clock backwards
FORTH = timedelta(days=2)  # largest plausible step forwards between two checks
TRUSTED_AFTER = timedelta(days=7)
OLD_PREVIEW_SECONDS = 3600.0
DAY = 86400.0
TOMBSTONE_DAYS = 365  # how long deleted ids are remembered
DELETED_AT_ONCE = 500  # rows per transaction, so that a worker's report never waits long


def clock_trusted(database: Database) -> bool:
    """Record the time and return whether the clock agrees with earlier records. Call every few hours."""
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


def days_ago(days: int) -> str:
    return utc_text(datetime.fromisoformat(utc_now()) - timedelta(days=days))


def delete_old_jobs(settings: Settings, database: Database) -> int:
    """Delete jobs that ended over ``keep_jobs_days`` ago, with their history; pictures stay. Returns the number."""
    if not settings.keep_jobs_days:
        return 0
    gone = 0
    while True:
        with database.write() as db:
            old = [
                row[0]
                for row in db.execute(
                    # Both times must be old: a job that "ended" before its submission ended while the clock was wrong.
                    "SELECT id FROM jobs WHERE finished_at < :before AND created_at < :before LIMIT :most",
                    {"before": days_ago(settings.keep_jobs_days), "most": DELETED_AT_ONCE},
                ).fetchall()
            ]
            for job_id in old:
                db.execute("DELETE FROM job_events WHERE job_id = ?", [job_id])
                db.execute("DELETE FROM jobs WHERE id = ?", [job_id])
            db.execute("DELETE FROM batches WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE batch_id = batches.id)")
        gone += len(old)
        if len(old) < DELETED_AT_ONCE:
            return gone


def delete_tombstones(database: Database) -> int:
    """Delete tombstones older than TOMBSTONE_DAYS; returns the number."""
    with database.write() as db:
        return db.execute("DELETE FROM deleted WHERE at < ?", [days_ago(TOMBSTONE_DAYS)]).rowcount


def empty_trash(settings: Settings, database: Database, files: ImageFiles) -> int:
    """Delete pictures that have been in the trash for over ``keep_trash_days``; rows first, so no row lacks a file."""
    if not settings.keep_trash_days:
        return 0
    with database.write() as db:
        # Trashed before its creation, or in the future: the clock was wrong, so the period starts now.
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


def delete_old_sources(settings: Settings, database: Database, files: ImageFiles) -> int:
    """Delete source pictures that nothing refers to and that were unused for ``keep_sources_days``; returns
    the number.
    """
    if not settings.keep_sources_days:
        return 0
    before = time.time() - settings.keep_sources_days * DAY
    old = [source_id for source_id, stat in files.sources() if stat.modified < before]
    if not old:
        return 0
    with database.read() as db:
        used = {
            row[0]
            for table in ("jobs", "images")
            for name in PICTURES
            for row in db.execute(f"SELECT DISTINCT {json_field('params', name)} FROM {table}").fetchall()
        }
        used |= {row[0] for row in db.execute("SELECT DISTINCT source_id FROM source_uses").fetchall()}
    dropped = 0
    for source_id in old:
        file = files.source(source_id)
        if source_id not in used and modified_at(file) < before:  # a submit touches the sources it names
            with database.write() as db:
                db.execute("DELETE FROM source_owners WHERE source_id = ?", [source_id])
            file.delete()
            dropped += 1
    return dropped


def delete_old_previews(files: ImageFiles) -> int:
    """Delete previews left by dead workers; returns the number."""
    dropped = 0
    for preview, stat in list(files.previews()):
        if time.time() - stat.modified > OLD_PREVIEW_SECONDS:
            with contextlib.suppress(OSError, StorageProblem):  # retried the next night
                preview.delete()
                dropped += 1
    return dropped


def modified_at(file: StoredFile) -> float:
    """Modification time in seconds since the epoch; infinity if the file is gone."""
    try:
        return file.stat().modified
    except FileNotFoundError:
        return math.inf


def optimize(database: Database) -> None:
    """Refresh SQLite's statistics and checkpoint the write-ahead log."""
    database.upkeep()
