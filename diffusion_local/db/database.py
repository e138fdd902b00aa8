"""Opens ``app.db``: migrations under a lock, the two kinds of transaction, and SQLite's faults in words."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import sqlite_utils
from filelock import FileLock, Timeout

from diffusion_local import disk
from diffusion_local.db.connections import BUSY_SECONDS, Connections
from diffusion_local.db.migrations import MIGRATIONS
from diffusion_local.errors import DatabaseProblem, InvalidParams
from diffusion_local.messages import message

Row = dict[str, Any]
Values = Mapping[str, Any] | Sequence[Any]

#: What the database raises that is not explained as a DatabaseProblem.
DatabaseError = sqlite3.Error

VALUES_AT_ONCE = 900  # of a statement: any SQLite takes 999


class Transaction:
    """What a store may do between the begin and the end of one transaction.

    SQL is the portable kind, with ``:name`` or ``?`` for values; what only one database understands comes from
    ``db.dialect`` and ``db.search``. Rows are dictionaries, or tuples where a cursor is read.
    """

    __slots__ = ("execute", "execute_many")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.execute_many = connection.executemany

    def query(self, sql: str, values: Values = ()) -> Iterator[Row]:
        """Rows one by one. A statement that changes rows and returns them must be read to its end."""
        cursor = self.execute(sql, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def scalar(self, sql: str, **values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def insert(self, table: str, *rows: Row) -> None:
        self.insert_many(table, rows)

    def insert_many(self, table: str, rows: Iterable[Row]) -> None:
        """Insert rows of equal columns, taken as they come; several go into one statement."""
        each = iter(rows)
        some = list(islice(each, 1))
        names = list(some[0]) if some else []
        while some:
            marks = f"({', '.join('?' * len(names))})"
            sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([marks] * len(some))}"
            self.execute(sql, [row[name] for row in some for name in names])
            some = list(islice(each, max(1, VALUES_AT_ONCE // len(names))))

    def upsert(self, table: str, row: Row, key: Sequence[str]) -> None:
        """Insert a row, or change the one that has the same values in the columns of ``key``."""
        sets = ", ".join(f"{name} = excluded.{name}" for name in row if name not in key)
        self.execute(f"{inserting(table, row)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}", row)


def inserting(table: str, row: Row) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"


class Database:
    """``app.db``. Reads see one consistent moment; writes take the write lock at once (BEGIN IMMEDIATE), because a
    transaction that reads first and writes later dies with "database is locked" under concurrency.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections = Connections(path)

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Create or migrate the file. Raises DatabaseProblem with what to do."""
        database = cls(path)
        try:
            path.parent.mkdir(disk.FOLDER, parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".migrate.lock"), timeout=BUSY_SECONDS, mode=disk.FILE)
            with explained(path), lock:
                # Only here the file is made: opened later, one that is gone must not come back empty.
                disk.create_private(path)  # SQLite gives -wal and -shm the same mode
                database._migrate()
        except OSError as error:  # of the folder, or of the lock that lies beside the database
            reason = error.strerror or str(error)
            raise DatabaseProblem(message("database_owner", file=path.name, error=reason)) from error
        return database

    def _migrate(self) -> None:
        with self._connected() as conn:
            db = sqlite_utils.Database(conn)
            known = {migration.name for migration in MIGRATIONS.pending(db)} | {m.name for m in MIGRATIONS.applied(db)}
            newer = sorted({m.name for m in MIGRATIONS.applied(db)} - {m.name for m in MIGRATIONS._migrations})
            if newer:
                raise DatabaseProblem(message("database_newer", file=self.path.name, version=newer[-1]))
            if not db.table_names():  # space of deleted rows can be given back bit by bit (see db.upkeep)
                conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
                conn.execute("VACUUM")  # without it the mode is not written down once the file is in WAL mode
            pending = MIGRATIONS.pending(db)
            if pending and len(pending) < len(known):
                copy(conn, self.path.with_name(f"{self.path.stem}.before-{pending[0].name}.db"))
            MIGRATIONS.apply(db)

    def backup(self, target: Path) -> None:
        """Copy the database while it is in use, by SQLite's online backup."""
        with self._connected() as conn:
            copy(conn, target)

    def upkeep(self) -> None:
        """SQLite's own care: fresh statistics, and the write-ahead log folded back into the file."""
        with self.plain() as conn:
            conn.execute("PRAGMA analysis_limit = 400")  # rows of an index, so that writers do not wait for long
        with self.write() as db:  # by itself it reads first, and fails where another writes before it does
            db.execute("PRAGMA optimize")
        with self.plain() as conn:
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    @contextlib.contextmanager
    def plain(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of a transaction, for what SQLite runs by itself: VACUUM, checkpoints, pragmas."""
        with self._connected() as conn:
            yield conn

    def probe(self) -> None:
        """Write a number that nobody reads. Raises DatabaseProblem where nothing can be written."""
        with self.write() as db:
            db.execute(f"PRAGMA user_version = {(db.scalar('PRAGMA user_version') + 1) % 2**31}")

    def close(self) -> None:
        """Close this thread's connection."""
        self._connections.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """Several reads of one moment."""
        with self._transaction("BEGIN") as db:
            yield db

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """Reads and writes that belong together; all or nothing. Do not nest."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self._connected() as conn:
            conn.execute(begin)
            try:
                yield Transaction(conn)
                conn.execute("COMMIT")
            except BaseException:
                try:
                    if conn.in_transaction:
                        conn.execute("ROLLBACK")
                except sqlite3.Error:  # closed, it cannot write the half that it has
                    self.close()
                raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, outside of a transaction."""
        with explained(self.path), self._connections.borrowed() as conn:
            yield conn


def copy(conn: sqlite3.Connection, target: Path) -> None:
    disk.create_private(target)
    try:
        with contextlib.closing(sqlite3.connect(target)) as other:
            conn.backup(other)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


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
