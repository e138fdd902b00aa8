"""Gives the space of deleted rows back to the file system, in steps that are short for whoever writes meanwhile.

A database made since is in SQLite's incremental auto-vacuum mode: its free pages are cut off a few at a time. An older
one must be written anew once (``rewrite``), which keeps writers waiting for as long as it takes.
"""

import contextlib
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.db.database import Database

MB = 1_000_000
WORTH_BYTES, WORTH_SHARE, LEAST_BYTES = 8 * MB, 0.25, 1 * MB
SLICE_SECONDS = 0.03  # for which a step holds the write lock
PAUSE_SECONDS = 0.03  # between two steps, in which others get it
FEWEST_PAGES, MOST_PAGES = 128, 4096  # of a step
MERGED_PAGES = 64  # of the text index in a step
SMALL_BYTES, LARGE_BYTES = 16 * MB, 200 * MB  # content that is rewritten at any time, and at most while nothing waits
PATIENCE_MS, USUAL_MS = 200, 15_000  # for other connections: of a checkpoint, and of everything else
INCREMENTAL = 2


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Bytes of a database file, and how many of them are free pages; ``incremental`` if they can be cut off."""

    size: int
    free: int
    incremental: bool

    @property
    def content(self) -> int:
        return self.size - self.free

    @property
    def worth_it(self) -> bool:
        """Whether there is so much to gain that it is worth the work."""
        return self.free >= WORTH_BYTES or (self.free >= LEAST_BYTES and self.free >= WORTH_SHARE * self.size)


def measure(database: Database) -> FreeSpace:
    with database.plain() as conn:
        return space_of(conn)


def space_of(conn: sqlite3.Connection) -> FreeSpace:
    names = ("page_size", "page_count", "freelist_count", "auto_vacuum")
    size, pages, free, mode = (conn.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return FreeSpace(pages * size, free * size, mode == INCREMENTAL)


def shrink(database: Database, reserve_bytes: int, seconds: float, anyhow: bool = False) -> int:
    """Give free pages back, for about ``seconds``; the bytes by which the file became smaller.

    A database of the older kind is rewritten if it is small, or if nothing waits or runs (``anyhow``: in any case), and
    if the disk has room for a second copy beside the reserve. Raises DatabaseProblem.
    """
    before = measure(database)
    if not before.worth_it and not (anyhow and before.free):
        return 0
    if before.incremental:
        cut_off(database, seconds)
    elif anyhow or may_rewrite(database, before):
        if shutil.disk_usage(database.path.parent).free < reserve_bytes + 2 * before.content:
            return 0
        rewrite(database)
    truncate_log(database)
    return before.size - measure(database).size


def may_rewrite(database: Database, space: FreeSpace) -> bool:
    if space.content <= SMALL_BYTES:
        return True
    with database.read() as db:
        busy = db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1")
    return not busy and space.content <= LARGE_BYTES


def cut_off(database: Database, seconds: float) -> list[float]:
    """Cut free pages off the end of the file until there are none, or time is up; the seconds that each step took.

    A step moves as many pages as fit into SLICE_SECONDS, judging by the one before.
    """
    taken, pages, deadline = [], FEWEST_PAGES, time.monotonic() + seconds
    while time.monotonic() < deadline and measure(database).free:
        began = time.perf_counter()
        with database.plain() as conn:
            conn.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` would run it for the first page only
        taken.append(time.perf_counter() - began)
        pages = max(FEWEST_PAGES, min(MOST_PAGES, int(pages * min(2.0, SLICE_SECONDS / max(taken[-1], 1e-6)))))
        time.sleep(max(PAUSE_SECONDS, taken[-1]))
    return taken


def rewrite(database: Database) -> None:
    """Write the whole file anew, in incremental auto-vacuum mode from then on."""
    with database.plain() as conn:
        conn.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        conn.execute("VACUUM")


def truncate_log(database: Database) -> None:
    """Fold the write-ahead log back, and cut it to nothing unless others read from it just now."""
    with database.plain() as conn:
        conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        conn.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")  # it keeps writers waiting
        try:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            conn.execute(f"PRAGMA busy_timeout = {USUAL_MS}")


def merge_text(database: Database, since: str, seconds: float) -> int:
    """Merge the text index so that the words of deleted pictures leave it, if any was deleted since then; the steps.

    FTS5 only notes that a text is deleted, until the parts that hold it are merged.
    """
    with database.read() as db:
        if not db.scalar("SELECT 1 FROM deleted WHERE what = 'picture' AND at >= :since LIMIT 1", since=since):
            return 0
    steps, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        with database.write() as db:
            before = db.scalar("SELECT total_changes()")
            pages = -MERGED_PAGES if steps == 0 else MERGED_PAGES  # the negative one begins a merge of all parts
            db.execute("INSERT INTO images_text (images_text, rank) VALUES ('merge', ?)", [pages])
            if db.scalar("SELECT total_changes()") - before < 2:  # as FTS5 tells that nothing is left to do
                break
        steps += 1
        time.sleep(PAUSE_SECONDS)
    return steps


def shrink_file(path: Path) -> int:
    """Rewrite a small database of somebody else, such as the doorbell's, if that is worth it; the bytes gained."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as conn:
        before = space_of(conn)
        if not before.worth_it or before.content > SMALL_BYTES:
            return 0
        conn.execute("VACUUM")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return before.size - space_of(conn).size
