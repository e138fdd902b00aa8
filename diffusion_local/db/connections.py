"""This process's connections to a SQLite file: one a thread, all of them replaced after a fault of the disk.

SQLite never writes again through a connection that had to open its file read-only. In WAL mode the connections of a
process also share their access to the -shm file: if the first of them had to open that read-only, all later ones are
read-only too, until the last is closed. So after a fault every connection of the process is closed: at once where its
thread does nothing with it, else at the end of its transaction.
"""

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from diffusion_local.db.access import add_functions

BUSY_SECONDS = 15
#: For which a new connection waits for those that are to be closed before it.
CLOSING_SECONDS = 2.0
#: SQLite's own bounds on a statement, behind those that each question has: bytes of a value or a row, how deep an
#: expression nests, and bytes of a pattern.
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 5_000,
}
DISK_FAULTS = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}


@dataclass(eq=False)
class Connection:
    """One thread's connection; ``file`` is the identity of its file when it was opened, ``uses`` counts borrowers."""

    conn: sqlite3.Connection
    path: Path
    file: tuple[int, int]
    uses: int = 1
    to_close: bool = False
    closing: bool = False


_changed = threading.Condition()
_open: weakref.WeakSet[Connection] = weakref.WeakSet()  # a thread's connection goes with its thread


class Connections:
    """To one file. Several objects for the same file share the knowledge of its faults."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection."""
        try:
            mine = self._take()
            try:
                yield mine.conn
            finally:
                release(mine)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in DISK_FAULTS:
                close_all(self._path)
            raise

    def close(self) -> None:
        """Close this thread's connection; one that is borrowed is closed when it is given back."""
        mine: Connection | None = self._local.__dict__.get("mine")
        if mine is not None:
            close([mine])

    def _take(self) -> Connection:
        mine: Connection | None = self._local.__dict__.get("mine")
        file = identity(self._path)
        if mine is not None and mine.file != file:  # moved or replaced: what is written here would be lost
            close([mine])
        with _changed:
            if mine is not None and not mine.closing and (mine.uses or not mine.to_close):
                mine.uses += 1
                return mine
            _changed.wait_for(
                lambda: not any(each.to_close for each in _open if each.path == self._path), CLOSING_SECONDS
            )
        mine = self._local.mine = Connection(opened(self._path), self._path, file)
        with _changed:
            _open.add(mine)
        return mine


def release(connection: Connection) -> None:
    with _changed:
        connection.uses -= 1
    if connection.to_close:
        close([connection])


def close_all(path: Path) -> None:
    """Close this process's connections to a file."""
    with _changed:
        found = [each for each in _open if each.path == path]
    close(found)


def close(connections: list[Connection]) -> None:
    """Each at once, or when it is released."""
    with _changed:
        for each in connections:
            each.to_close = True
        idle = [each for each in connections if not each.uses and not each.closing]
        for each in idle:
            each.closing = True  # by this thread
    for each in idle:  # without the lock, as a disk may hang
        each.conn.close()
    with _changed:
        for each in idle:
            _open.discard(each)
        _changed.notify_all()


def opened(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions begin and end where the store says so, and nowhere else.
    conn = connect(path, "rw")
    try:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")  # an acknowledged submit survives a power cut
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA recursive_triggers = ON")  # a row that is replaced counts as deleted
        for limit, most in LIMITS.items():
            conn.setlimit(limit, most)
        add_functions(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Any thread may close it; only one uses it at a time."""
    address = f"file:{quote(path.absolute().as_posix())}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def identity(path: Path) -> tuple[int, int]:
    """Tells a file from another one of its name; zeros where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
