"""Audits a home after failures: every acknowledged job was made exactly once, and no stray files are left.

Used by ``chaos.py`` and by the durability tests. It reads the tables by plain SQL of its own, so that a fault of the
store's code cannot hide itself; only the sweep is the program's.
"""

import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from PIL import Image as PIL
from psycopg.rows import dict_row

from diffusion_local.compose import open_files
from diffusion_local.db.database import open_database
from diffusion_local.domain import FINAL, TRANSITIONS
from diffusion_local.gallery import recipes
from diffusion_local.gallery.sweep import sweep
from diffusion_local.queue.jobs import CRASH_LIMIT
from diffusion_local.settings import Settings

LOST_NOTES = ("worker lost", "timed out")
GIVEN_BACK = ("running", "queued")
KNOWN_NOTES = ("given back: pause", "given back: shutdown", "the database could not be written")
FAULT_NOTE = re.compile(r"[a-z_]+: ")  # one that counts among the job's tries or faults
LOST_KINDS = ("worker_lost", "timed_out")
MOVES = {(None, "queued")} | {(str(start), str(end)) for start, end, _ in TRANSITIONS.values()}
Row = dict[str, Any]


@dataclass
class Ledger:
    """What the clients were told, to be held against what is there."""

    promised: dict[str, str] = field(default_factory=dict)  # job id: prompt, of acknowledged submits
    by_key: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)  # idempotency key: every answer to it
    cancelled: set[str] = field(default_factory=set)  # job ids whose cancel was asked for


@dataclass
class Audit:
    """``violations`` is empty where every promise was kept; ``counts`` tells what was there."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def check(self, holds: bool, violation: str) -> None:
        if not holds:
            self.violations.append(violation)


def audit(settings: Settings, ledger: Ledger | None = None, drained: bool = True) -> Audit:
    """Look at everything. ``drained``: no job may be left waiting. Sweeps the gallery; no worker may be running."""
    found = Audit()
    jobs, images, events = read_tables(settings, found)
    for job in jobs.values():
        check_job(found, job, events.get(job["id"], []))
        found.check(job["state"] in FINAL or (job["state"] == "queued" and not drained), f"{told(job)} has not ended")
    if ledger is not None:
        check_promises(found, ledger, jobs)
        lost = [job_id for job_id, job in jobs.items() if job["error_kind"] in LOST_KINDS]
        found.counts["failed_as_hit_twice"] = sum("[crash]" not in ledger.promised.get(job_id, "") for job_id in lost)
    check_pictures(found, settings, jobs, images)
    notes = Counter(note for each in events.values() for note in losses(each))
    ends = Counter(job["error_kind"] or job["state"] for job in jobs.values())
    found.counts |= {
        "jobs": len(jobs),
        "ends": dict(sorted(ends.items())),
        "attempts": sum(job["attempt"] for job in jobs.values()),
        "recoveries": sum(job["crashes"] for job in jobs.values()),
        "recovered_from": dict(sorted(notes.items())),
        "given_back": dict(sorted(Counter(cause for each in events.values() for cause in given_back(each)).items())),
        "jobs_recovered": sum(job["crashes"] > 0 for job in jobs.values()),
        "images": len(images),
        "events": sum(map(len, events.values())),
    }
    return found


def read_tables(settings: Settings, found: Audit) -> tuple[dict[str, Row], dict[str, Row], dict[str, list[Row]]]:
    """Jobs by id, images by job id, events by job id in their order."""
    with server_rows(settings.database) if settings.database else file_rows(settings.database_file, found) as rows:
        jobs = {row["id"]: row for row in rows("SELECT * FROM jobs")}
        images: dict[str, Row] = {}
        for row in rows("SELECT * FROM images"):
            found.check(row["job_id"] not in images, f"job {row['job_id']} has two pictures")
            images[row["job_id"]] = row
        events: dict[str, list[Row]] = {}
        for row in rows("SELECT * FROM job_events ORDER BY id"):
            events.setdefault(row["job_id"], []).append(row)
    return jobs, images, events


@contextmanager
def file_rows(file: Path, found: Audit) -> Iterator[Callable[[str], list[Row]]]:
    """Reads the rows of a SQLite file at one moment, after checking that the file is sound."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=15)) as db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN")
        integrity = [row[0] for row in db.execute("PRAGMA integrity_check")]
        found.check(integrity == ["ok"], f"the database is not sound: {integrity[:3]}")
        found.check(not db.execute("PRAGMA foreign_key_check").fetchall(), "a reference in the database leads nowhere")
        yield lambda query: [dict(row) for row in db.execute(query)]


@contextmanager
def server_rows(url: str) -> Iterator[Callable[[str], list[Row]]]:
    """Reads the rows of a PostgreSQL database at one moment."""
    with psycopg.connect(url, row_factory=dict_row) as db:
        db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield lambda query: db.execute(query).fetchall()


def check_job(found: Audit, job: Row, events: list[Row]) -> None:
    """One job's row against its own history."""
    states = [event["state"] for event in events]
    for before, after in pairwise([None, *states]):
        found.check((before, after) in MOVES, f"{told(job)} went from {before} to {after}")
    found.check(bool(states) and states[-1] == job["state"], f"{told(job)} has another last event: {states[-1:]}")
    found.check(sum(state in FINAL for state in states) <= 1, f"{told(job)} ended more than once: {states}")
    found.check(job["attempt"] == states.count("running"), f"{told(job)}: {job['attempt']} attempts, {states}")
    lost = len(losses(events))
    found.check(job["crashes"] == lost, f"{told(job)} counts {job['crashes']} crashes, its history {lost}")
    if job["state"] in ("done", "failed"):
        found.check(job["attempt"] >= 1, f"{told(job)} ended without an attempt")
    poisoned = job["error_kind"] in LOST_KINDS
    found.check(
        poisoned == (job["crashes"] >= CRASH_LIMIT) or job["state"] == "cancelled",
        f"{told(job)} took down {job['crashes']} workers and ended as {job['error_kind'] or job['state']}",
    )
    found.check((job["worker"] is not None) == (job["state"] == "running"), f"{told(job)} has worker {job['worker']}")


def losses(events: list[Row]) -> list[str]:
    """Why the job was taken from its worker, each time that it was."""
    moves = pairwise(events)
    return [after["note"] for before, after in moves if before["state"] == "running" and after["note"] in LOST_NOTES]


def given_back(events: list[Row]) -> list[str]:
    """Why the job went back into the queue, each time that a worker let go of it; of faults only the kind."""
    notes = [after["note"] for before, after in pairwise(events) if (before["state"], after["state"]) == GIVEN_BACK]
    return [
        note if note in KNOWN_NOTES else note.partition(":")[0] if FAULT_NOTE.match(note) else "a fault of the storage"
        for note in notes
        if note not in LOST_NOTES
    ]


def check_promises(found: Audit, ledger: Ledger, jobs: dict[str, Row]) -> None:
    """Every acknowledged submit is there, once; nothing else was made, and every end has its reason."""
    found.check(set(ledger.promised) <= set(jobs), f"lost jobs: {sorted(set(ledger.promised) - set(jobs))[:5]}")
    unasked = sorted(set(jobs) - set(ledger.promised))
    found.check(not unasked, f"{len(unasked)} jobs that no answer named, such as {unasked[:3]}")
    for key, answers in ledger.by_key.items():
        found.check(len(answers) == 1, f"idempotency key {key} made {len(answers)} batches")
    for job_id, prompt in ledger.promised.items():
        job = jobs.get(job_id)
        if job is None:
            continue
        found.check(job["state"] != "cancelled" or job_id in ledger.cancelled, f"{told(job)}, unasked")
        if job["state"] == "failed" and job["error_kind"] not in LOST_KINDS:
            expected = any(word in prompt for word in ("[fail]", "[flaky]"))
            found.check(expected, f"{told(job)}: {job['error_kind']}: {job['error_message']}")
        if "[fail]" in prompt or "[crash]" in prompt:
            found.check(job["state"] != "done", f"{told(job)} although it cannot be made")


def check_pictures(found: Audit, settings: Settings, jobs: dict[str, Row], images: dict[str, Row]) -> None:
    """One whole PNG for each done job, with its own recipe; no other file, once the sweep has been."""
    done = {job_id for job_id, job in jobs.items() if job["state"] == "done"}
    found.check(done == set(images), f"done without picture or the reverse: {sorted(done ^ set(images))[:5]}")
    parts = list(settings.gallery_folder.rglob("*.part"))
    for part in parts:  # as if an hour had passed; a younger one might still be written to
        os.utime(part, (time.time() - 7200, time.time() - 7200))
    swept = sweep(open_files(settings), open_database(settings))
    found.check(not swept.missing, f"rows without a file: {swept.missing[:5]}")
    for key in swept.strays:
        job = jobs.get(Path(key).name)
        found.check(job is None or job["state"] != "done", f"the picture of a done job was a stray: {key}")
    for image in images.values():
        check_picture(found, settings.gallery_folder / f"{image['key']}.png", image)
    expected = {f"{image['key']}{suffix}" for image in images.values() for suffix in (".png", ".webp")}
    waiting = {job_id for job_id, job in jobs.items() if job["state"] == "queued"}  # what they need is left alone
    files = [path for path in settings.gallery_folder.rglob("*") if path.is_file() and path.stem not in waiting]
    lying = {path.relative_to(settings.gallery_folder).as_posix() for path in files}
    found.check(lying == expected, f"files and rows differ: {sorted(lying ^ expected)[:5]}")
    found.counts |= {"strays_moved_aside": len(swept.strays), "parts_dropped": len(parts)}


def check_picture(found: Audit, path: Path, image: Row) -> None:
    try:
        with PIL.open(path) as picture:
            picture.load()
            carried, size = recipes.read_json(picture), picture.size
    except (OSError, SyntaxError, ValueError) as error:
        found.violations.append(f"picture {image['key']} cannot be read: {error}")
        return
    own = carried is not None and (carried["id"], carried["job_id"]) == (image["id"], image["job_id"])
    found.check(own, f"picture {image['key']} carries another recipe")
    found.check(size == (image["width"], image["height"]), f"picture {image['key']} has size {size}")


def told(job: Row) -> str:
    return f"job {job['id']} ({job['state']})"


def summary(violations: Iterable[str]) -> str:
    lines = [f"VIOLATION  {text}" for text in violations]
    return "\n".join(lines) or "no violation"
