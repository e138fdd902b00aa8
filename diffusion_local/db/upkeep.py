"""Returns the space of deleted rows to the file system, in steps short enough not to delay writers.

New databases use SQLite's incremental auto-vacuum mode, in which free pages can be released a few at a time. An older
one must be rewritten once (``rewrite``), which blocks writers for that time.
"""

import contextlib
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from diffusion_local.db import search
from diffusion_local.db.database import Database

MB = 1_000_000
MIN_FREE_BYTES, MIN_FREE_SHARE, FREE_FLOOR_BYTES = 8 * MB, 0.25, 1 * MB
SLICE_SECONDS = 0.03  # how long one step holds the write lock
PAUSE_SECONDS = 0.03  # pause between steps, in which other writers get the lock
MIN_PAGES, MAX_PAGES = 128, 4096  # pages per step
MERGED_PAGES = 64  # pages of the text index per step
# largest content that is rewritten at any time, and largest that is rewritten while the queue is idle
SMALL_BYTES, LARGE_BYTES = 16 * MB, 200 * MB
CHECKPOINT_TIMEOUT_MS, BUSY_TIMEOUT_MS = (
    200,
    15_000,
)  # busy timeout of other connections during a checkpoint, and otherwise
INCREMENTAL = 2


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Size and free pages of a database file, in bytes. ``incremental``: free pages can be released step by step."""

    size: int
    free: int
    incremental: bool

    @property
    def content(self) -> int:
        return self.size - self.free

    @property
    def worth_it(self) -> bool:
        """Whether enough space is free to justify the work."""
        return self.free >= MIN_FREE_BYTES or (
            self.free >= FREE_FLOOR_BYTES and self.free >= MIN_FREE_SHARE * self.size
        )


def measure(database: Database) -> FreeSpace:
    with database.outside_transaction() as conn:
        return free_space(conn)


def free_space(conn: sqlite3.Connection) -> FreeSpace:
    names = ("page_size", "page_count", "freelist_count", "auto_vacuum")
    size, pages, free, mode = (conn.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return FreeSpace(pages * size, free * size, mode == INCREMENTAL)


def shrink(database: Database, reserve_bytes: int, seconds: float, force: bool = False) -> int:
    """Release free pages for about ``seconds``; returns the bytes by which the file shrank.

    A database without incremental auto-vacuum is rewritten if it is small or the queue is idle (``force``: always), and
    only if the disk has room for a second copy in addition to the reserve. A database server needs none of this.
    Raises DatabaseProblem.
    """
    if database.on_server:
        return 0
    before = measure(database)
    if not before.worth_it and not (force and before.free):
        return 0
    if before.incremental:
        release_pages(database, seconds)
    elif force or rewrite_allowed(database, before):
        if shutil.disk_usage(database.path.parent).free < reserve_bytes + 2 * before.content:
            return 0
        rewrite(database)
    truncate_log(database)
    return before.size - measure(database).size


def rewrite_allowed(database: Database, space: FreeSpace) -> bool:
    if space.content <= SMALL_BYTES:
        return True
    with database.read() as db:
        busy = db.scalar("SELECT 1 FROM jobs WHERE state IN ('queued', 'running') LIMIT 1")
    return not busy and space.content <= LARGE_BYTES


def release_pages(database: Database, seconds: float) -> list[float]:
    """Release free pages until there are none left or time is up; returns the seconds per step.

    The number of pages per step adapts so that a step takes about SLICE_SECONDS.
    """
    durations, pages, deadline = [], MIN_PAGES, time.monotonic() + seconds
    while time.monotonic() < deadline and measure(database).free:
        began = time.perf_counter()
        with database.outside_transaction() as conn:
            conn.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` would process the first page only
        durations.append(time.perf_counter() - began)
        pages = max(MIN_PAGES, min(MAX_PAGES, int(pages * min(2.0, SLICE_SECONDS / max(durations[-1], 1e-6)))))
        time.sleep(max(PAUSE_SECONDS, durations[-1]))
    return durations


def rewrite(database: Database) -> None:
    """Rewrite the whole file and switch it to incremental auto-vacuum mode."""
    with database.outside_transaction() as conn:
        conn.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        conn.execute("VACUUM")


def truncate_log(database: Database) -> None:
    """Checkpoint the write-ahead log, and truncate it unless another connection is reading from it."""
    with database.outside_transaction() as conn:
        conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        conn.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MS}")  # a truncating checkpoint blocks writers
        try:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            conn.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def merge_text_index(database: Database, since: str, seconds: float) -> int:
    """Merge the full-text index if pictures were deleted after ``since``; returns the number of steps.

    FTS5 only marks a text as deleted until the segments that hold it are merged.
    """
    if database.on_server:
        return 0
    with database.read() as db:
        if not db.scalar("SELECT 1 FROM deleted WHERE what = 'picture' AND at >= :since LIMIT 1", since=since):
            return 0
    deadline = time.monotonic() + seconds
    return sum(merge_index(database, index, deadline) for index in search.INDEXES)


def merge_index(database: Database, index: str, deadline: float) -> int:
    steps = 0
    while time.monotonic() < deadline:
        with database.write() as db:
            before = db.scalar("SELECT total_changes()")
            pages = -MERGED_PAGES if steps == 0 else MERGED_PAGES  # a negative number starts a merge of all segments
            db.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('merge', ?)", [pages])
            if db.scalar("SELECT total_changes()") - before < 2:  # FTS5's sign that nothing is left to merge
                break
        steps += 1
        time.sleep(PAUSE_SECONDS)
    return steps


def shrink_file(path: Path) -> int:
    """Rewrite a small database of another component (the message queue's) if worthwhile; returns the bytes gained."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as conn:
        before = free_space(conn)
        if not before.worth_it or before.content > SMALL_BYTES:
            return 0
        conn.execute("VACUUM")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return before.size - free_space(conn).size
