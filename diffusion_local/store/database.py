"""Opens ``app.db``: pragmas, one connection a thread, migrations under a lock, and the two kinds of transaction."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlite_utils
from filelock import FileLock, Timeout

from diffusion_local import modes
from diffusion_local.errors import DatabaseProblem, InvalidParams
from diffusion_local.messages import message
from diffusion_local.store.migrations import MIGRATIONS
from diffusion_local.store.ownership import add_functions

BUSY_SECONDS = 15
#: SQLite's own bounds on a statement, behind those that each question has: bytes of a value or a row, how deep an
#: expression nests, and bytes of a pattern.
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 5_000,
}
BAD_CONNECTION = {
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
}


class Database:
    """``app.db``. Reads see one consistent moment; writes take the write lock at once (BEGIN IMMEDIATE), because a
    transaction that reads first and writes later dies with "database is locked" under concurrency.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Create or migrate the file. Raises DatabaseProblem with what to do."""
        database = cls(path)
        try:
            path.parent.mkdir(modes.FOLDER, parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".migrate.lock"), timeout=BUSY_SECONDS, mode=modes.FILE)
            with explained(path), lock:
                # Only here the file is made: opened later, one that is gone must not come back empty.
                modes.create_private(path)  # SQLite gives -wal and -shm the same mode
                database._migrate()
        except OSError as error:  # of the folder, or of the lock that lies beside the database
            reason = error.strerror or str(error)
            raise DatabaseProblem(message("database_owner", file=path.name, error=reason)) from error
        return database

    def _migrate(self) -> None:
        with self._connected() as db:
            known = {migration.name for migration in MIGRATIONS.pending(db)} | {m.name for m in MIGRATIONS.applied(db)}
            newer = sorted({m.name for m in MIGRATIONS.applied(db)} - {m.name for m in MIGRATIONS._migrations})
            if newer:
                raise DatabaseProblem(message("database_newer", file=self.path.name, version=newer[-1]))
            if not db.table_names():  # space of deleted rows can be given back bit by bit (see store.space)
                db.conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
                db.conn.execute("VACUUM")  # without it the mode is not written down once the file is in WAL mode
            pending = MIGRATIONS.pending(db)
            if pending and len(pending) < len(known):
                self.backup(self.path.with_name(f"{self.path.stem}.before-{pending[0].name}.db"))
            MIGRATIONS.apply(db)

    def backup(self, target: Path) -> None:
        """Copy the database while it is in use, by SQLite's online backup."""
        modes.create_private(target)
        try:
            with self._connected() as db, contextlib.closing(sqlite3.connect(target)) as copy:
                db.conn.backup(copy)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def upkeep(self) -> None:
        """SQLite's own care: fresh statistics, and the write-ahead log folded back into the file."""
        with self.plain() as conn:
            conn.execute("PRAGMA analysis_limit = 400")  # rows of an index, so that writers do not wait for long
        with self.write() as db:  # by itself it reads first, and fails where another writes before it does
            db.conn.execute("PRAGMA optimize")
        with self.plain() as conn:
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @contextlib.contextmanager
    def plain(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of a transaction, for what SQLite runs by itself: VACUUM, checkpoints, pragmas."""
        with self._connected() as db:
            yield db.conn

    def probe(self) -> None:
        """Write a number that nobody reads. Raises DatabaseProblem where nothing can be written."""
        with self.write() as db:
            db.execute(f"PRAGMA user_version = {(scalar(db, 'PRAGMA user_version') + 1) % 2**31}")

    def close(self) -> None:
        """Close this thread's connection."""
        db = self._local.__dict__.pop("db", None)
        if db is not None:
            db.conn.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite_utils.Database]:
        """Several reads of one moment."""
        with self._transaction("BEGIN") as db:
            yield db

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite_utils.Database]:
        """Reads and writes that belong together; all or nothing. Do not nest."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite_utils.Database]:
        with self._connected() as db:
            db.conn.execute(begin)
            try:
                yield db
                db.conn.execute("COMMIT")
            except BaseException:
                try:
                    if db.conn.in_transaction:
                        db.conn.execute("ROLLBACK")
                except sqlite3.Error:  # closed, it cannot write the half that it has
                    self.close()
                raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite_utils.Database]:
        """This thread's connection. One that met a fault of the disk is closed, and the next use opens another:
        SQLite never writes again through a connection that it had to open read-only.
        """
        with explained(self.path):
            try:
                yield self._connection()
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in BAD_CONNECTION:
                    self.close()
                raise

    def _connection(self) -> sqlite_utils.Database:
        db, file = getattr(self._local, "db", None), file_of(self.path)
        if db is not None and self._local.file != file:  # moved or replaced: what is written here would be lost
            self.close()
            db = None
        if db is None:
            # Autocommit: transactions begin and end where this module says so, and nowhere else.
            conn = connect(self.path, "rw")
            try:
                conn.execute("PRAGMA journal_mode = WAL")
                conn.execute("PRAGMA synchronous = FULL")  # an acknowledged submit survives a power cut
                conn.execute("PRAGMA foreign_keys = ON")
                for limit, most in LIMITS.items():
                    conn.setlimit(limit, most)
                add_functions(conn)
            except BaseException:
                conn.close()
                raise
            db = self._local.db = sqlite_utils.Database(conn)
            self._local.file = file
        return db


def connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(path.absolute().as_posix())}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def file_of(path: Path) -> tuple[int, int]:
    """What tells a file from another one of its name; zeros where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's faults into sentences that say what to do."""
    try:
        yield
    except Timeout:
        raise DatabaseProblem(message("database_upgrading", file=path.name)) from None
    except UnicodeEncodeError:
        raise InvalidParams("text", message("half_searched")) from None
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise DatabaseProblem(message("database_locked", file=path.name, seconds=BUSY_SECONDS)) from error
        if "readonly" in text or "unable to open" in text:
            raise DatabaseProblem(message("database_owner", file=path.name, error=text)) from error
        if "malformed" in text or "not a database" in text or "disk image" in text:
            raise DatabaseProblem(message("database_damaged", file=path.name, error=text)) from error
        if "disk is full" in text or "disk I/O" in text:
            raise DatabaseProblem(message("database_room", file=path.name, error=text)) from error
        raise


def check_integrity(database: Database) -> list[str]:
    """SQLite's own findings; an empty list is a sound database."""
    with database.read() as db:
        found = [row["integrity_check"] for row in db.query("PRAGMA integrity_check")]
    return [] if found == ["ok"] else found


def scalar(db: sqlite_utils.Database, sql: str, **values: Any) -> Any:
    """The first column of the first row, or None."""
    row = db.execute(sql, values).fetchone()
    return None if row is None else row[0]


def each_value(db: sqlite_utils.Database, table: str, column: str, where: str = "true") -> list[Any]:
    """The different values of an indexed column, ascending, but for NULL: from each the index is asked for the next."""
    least = f"SELECT min({column}) FROM {table} WHERE {where}"
    found = db.execute(
        f"WITH RECURSIVE each (value) AS ({least} UNION ALL "
        f"SELECT ({least} AND {column} > each.value) FROM each WHERE value IS NOT NULL) "
        "SELECT value FROM each WHERE value IS NOT NULL"
    )
    return [row[0] for row in found.fetchall()]
