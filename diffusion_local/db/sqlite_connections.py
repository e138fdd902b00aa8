"""This process's SQLite connections to a file: one per thread, all of them replaced after a disk fault.

SQLite never writes again through a connection that had to open its file read-only. In WAL mode the connections of a
process also share access to the -shm file: if the first of them had to open it read-only, later ones are read-only too,
until the last is closed. So after a fault every connection of the process is closed: an idle one at once, a busy one at
the end of its transaction.
"""

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from diffusion_local.db.row_access import add_functions

BUSY_SECONDS = 15
#: How long a new connection waits for old ones to close.
CLOSE_WAIT_SECONDS = 2.0
#: SQLite's own limits, a second line of defence behind the limits of each operation: bytes of a value or row, depth of
#: an expression, bytes of a LIKE pattern.
SQLITE_LIMITS = {
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
    """One thread's connection. ``file``: (device, inode) of the file when it was opened; ``uses``: open borrows."""

    conn: sqlite3.Connection
    path: Path
    file: tuple[int, int]
    uses: int = 1
    to_close: bool = False
    closing: bool = False


_changed = threading.Condition()
_open: weakref.WeakSet[Connection] = weakref.WeakSet()  # weak: a thread's connection is dropped with its thread


class Connections:
    """The connections to one file. Several objects for the same file share its faults: one fault closes them all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, opened on first use."""
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
        """Close this thread's connection; a borrowed one is closed when it is released."""
        mine: Connection | None = self._local.__dict__.get("mine")
        if mine is not None:
            close([mine])

    def _take(self) -> Connection:
        mine: Connection | None = self._local.__dict__.get("mine")
        file = file_identity(self._path)
        if mine is not None and mine.file != file:  # the file was moved or replaced: writes to it would be lost
            close([mine])
        with _changed:
            if mine is not None and not mine.closing and (mine.uses or not mine.to_close):
                mine.uses += 1
                return mine
            _changed.wait_for(
                lambda: not any(each.to_close for each in _open if each.path == self._path), CLOSE_WAIT_SECONDS
            )
        mine = self._local.mine = Connection(open_connection(self._path), self._path, file)
        with _changed:
            _open.add(mine)
        return mine


def release(connection: Connection) -> None:
    with _changed:
        connection.uses -= 1
    if connection.to_close:
        close([connection])


def close_all(path: Path) -> None:
    """Close all connections of this process to a file."""
    with _changed:
        matching = [each for each in _open if each.path == path]
    close(matching)


def close(connections: list[Connection]) -> None:
    """Close idle connections at once, and busy ones when they are released."""
    with _changed:
        for each in connections:
            each.to_close = True
        idle = [each for each in connections if not each.uses and not each.closing]
        for each in idle:
            each.closing = True  # claimed by this thread
    for each in idle:  # outside the lock, because a faulty disk may hang
        each.conn.close()
    with _changed:
        for each in idle:
            _open.discard(each)
        _changed.notify_all()


def open_connection(path: Path) -> sqlite3.Connection:
    # Autocommit: only ``Database`` begins and ends transactions.
    conn = connect(path, "rw")
    try:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")  # a submit that was acknowledged survives a power cut
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA recursive_triggers = ON")  # so that a replaced row fires its delete triggers
        for limit, value in SQLITE_LIMITS.items():
            conn.setlimit(limit, value)
        add_functions(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Connect without implicit transactions. Any thread may close the connection, but only one uses it at a time."""
    address = f"file:{quote(path.absolute().as_posix())}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def file_identity(path: Path) -> tuple[int, int]:
    """(device, inode) of a file, to detect that it was replaced by one of the same name; (0, 0) if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
