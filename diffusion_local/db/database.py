"""The database: SQLite's ``app.db``, or a PostgreSQL server (``db.postgresql``) if the settings name one.

Runs migrations under a lock, provides read and write transactions, and translates SQLite's errors to DatabaseProblem.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlite_utils
from filelock import FileLock, Timeout

from diffusion_local import disk
from diffusion_local.db.migrations import MIGRATIONS
from diffusion_local.db.sqlite_connections import BUSY_SECONDS, Connections
from diffusion_local.db.write_lock import write_lock
from diffusion_local.errors import DatabaseProblem, InvalidParams
from diffusion_local.messages import message
from diffusion_local.settings import Settings

if TYPE_CHECKING:
    from diffusion_local.db.postgresql import PostgresDatabase
    from diffusion_local.db.server_lock import ServerLock

Row = dict[str, Any]
Values = Mapping[str, Any] | Sequence[Any]

#: Base class of database errors that have not been translated to DatabaseProblem.
DatabaseError = sqlite3.Error

VALUES_PER_STATEMENT = 900  # bound values per statement; every SQLite build accepts 999


class Transaction:
    """The operations available inside one transaction.

    SQL must be portable, with ``:name`` or ``?`` for values; dialect-specific SQL comes from ``db.dialect`` and
    ``db.search``. Rows are dictionaries, or tuples when read from a cursor.
    """

    __slots__ = ("execute", "execute_many")

    #: Whether statements are translated to PostgreSQL's dialect; see ``db.translation``.
    translated = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.execute_many = connection.executemany

    def query(self, sql: str, values: Values = ()) -> Iterator[Row]:
        """Iterate over rows as dictionaries. A ``RETURNING`` statement must be read to its end to take effect."""
        cursor = self.execute(sql, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def stream(self, sql: str) -> Iterator[Row]:
        """``query`` for more rows than fit into memory."""
        return self.query(sql)

    def scalar(self, sql: str, **values: Any) -> Any:
        """The first column of the first row, or None if there is no row."""
        row = self.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def insert(self, table: str, *rows: Row) -> None:
        self.insert_many(table, rows)

    def insert_many(self, table: str, rows: Iterable[Row]) -> None:
        """Insert rows with the same columns, several per statement. ``rows`` may be a generator."""
        remaining = iter(rows)
        chunk = list(islice(remaining, 1))
        names = list(chunk[0]) if chunk else []
        while chunk:
            marks = f"({', '.join('?' * len(names))})"
            sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([marks] * len(chunk))}"
            self.execute(sql, [row[name] for row in chunk for name in names])
            chunk = list(islice(remaining, max(1, VALUES_PER_STATEMENT // len(names))))

    def upsert(self, table: str, row: Row, key: Sequence[str]) -> None:
        """Insert a row, or update the row with equal values in the ``key`` columns."""
        sets = ", ".join(f"{name} = excluded.{name}" for name in row if name not in key)
        self.execute(f"{insert_sql(table, row)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}", row)


def insert_sql(table: str, row: Row) -> str:
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"


class Database:
    """``app.db``; ``PostgresDatabase`` has the same interface, without a ``path``.

    Read transactions see one consistent state. Write transactions take the write lock at once (BEGIN IMMEDIATE),
    because one that first reads and then writes fails with "database is locked" under concurrency.
    """

    #: Whether it is on a server, which maintains its own files.
    on_server = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._connections = Connections(path)
        self._write_lock = write_lock(path)

    @classmethod
    def open(cls, path: Path) -> "Database":
        """Create or migrate the file. Raises DatabaseProblem with a message that names the remedy."""
        database = cls(path)
        try:
            path.parent.mkdir(disk.FOLDER, parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".migrate.lock"), timeout=BUSY_SECONDS, mode=disk.FILE)
            with translate_errors(path), lock:
                # The only place that creates the file: if it disappears later, an empty one must not replace it.
                disk.create_private(path)  # SQLite gives -wal and -shm the same mode
                database._migrate()
        except OSError as error:  # from the folder, or from the lock file next to the database
            reason = error.strerror or str(error)
            raise DatabaseProblem(message("database_owner", file=path.name, error=reason)) from error
        return database

    def _migrate(self) -> None:
        with self._connect() as conn:
            db = sqlite_utils.Database(conn)
            known = {migration.name for migration in MIGRATIONS.pending(db)} | {m.name for m in MIGRATIONS.applied(db)}
            newer = sorted({m.name for m in MIGRATIONS.applied(db)} - {m.name for m in MIGRATIONS._migrations})
            if newer:
                raise DatabaseProblem(message("database_newer", file=self.path.name, version=newer[-1]))
            if not db.table_names():  # allows db.upkeep to release free pages step by step
                conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
                conn.execute("VACUUM")  # the mode is stored only if VACUUM runs before the file is in WAL mode
            pending = MIGRATIONS.pending(db)
            if pending and len(pending) < len(known):
                copy(conn, self.path.with_name(f"{self.path.stem}.before-{pending[0].name}.db"))
            MIGRATIONS.apply(db)

    def backup(self, target: Path) -> None:
        """Copy the database while it is in use, with SQLite's online backup."""
        with self._connect() as conn:
            copy(conn, target)

    def upkeep(self) -> None:
        """Refresh the planner's statistics and checkpoint the write-ahead log."""
        with self.outside_transaction() as conn:
            conn.execute("PRAGMA analysis_limit = 400")  # rows sampled per index, so that writers do not wait long
        with self.write() as db:  # on its own it would read first, and fail if another connection writes in between
            db.execute("PRAGMA optimize")
        with self.outside_transaction() as conn:
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def findings(self) -> list[str]:
        """Check the stored data; returns the problems found, none for a sound database."""
        with self.read() as db:
            findings = [row["integrity_check"] for row in db.query("PRAGMA integrity_check")]
        return [] if findings == ["ok"] else findings

    @contextlib.contextmanager
    def outside_transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of a transaction, for VACUUM, checkpoints and pragmas."""
        with self._connect() as conn:
            yield conn

    def writes(self) -> int | None:
        """A number that changes with every write by any process, known without a query; None if it is not known.

        While it stays the same, values that were read after it are current. SQLite never knows it: a query of its file
        costs no more.
        """
        return None

    def probe(self) -> None:
        """Check that the database is writable by changing an unused number. Raises DatabaseProblem if it is not."""
        with self.write() as db:
            db.execute(f"PRAGMA user_version = {(db.scalar('PRAGMA user_version') + 1) % 2**31}")

    def lock(self, path: Path) -> "FileLock | ServerLock":
        """A lock on the file ``path``, against every process that uses the database; released if its holder dies."""
        return FileLock(path, mode=disk.FILE)

    def close(self) -> None:
        """Close this thread's connection."""
        self._connections.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction: all reads see the same state."""
        with self._transaction("BEGIN") as db:
            yield db

    def fetch(self, sql: str, values: Values = ()) -> list[Row]:
        """Rows of one query, which sees one state without a transaction around it: a third of the messages to a server.

        Within a transaction of this thread the query is part of it.
        """
        with self._connect() as conn:
            return list(Transaction(conn).query(sql, values))

    @contextlib.contextmanager
    def write(self, patient: bool = False) -> Iterator[Transaction]:
        """A write transaction: all changes are applied or none. Must not be nested.

        Writers get their turn in order of arrival. ``patient``: for workers' writes, which arrive by the hundred; other
        writers in this process go first.
        """
        with (
            translate_errors(self.path),
            self._write_lock.hold(patient, BUSY_SECONDS),
            self._transaction("BEGIN IMMEDIATE") as db,
        ):
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self._connect() as conn:
            conn.execute(begin)
            try:
                yield Transaction(conn)
                conn.execute("COMMIT")
            except BaseException:
                try:
                    if conn.in_transaction:
                        conn.execute("ROLLBACK")
                except sqlite3.Error:  # the disk failed: closing the connection discards the open transaction
                    self.close()
                raise

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, outside of a transaction."""
        with translate_errors(self.path), self._connections.borrow() as conn:
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
def translate_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors to DatabaseProblem with a message that names the remedy."""
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


def open_database(settings: Settings) -> Database:
    """Create or migrate the database that the settings name. Raises DatabaseProblem and InvalidParams."""
    return postgresql().open(settings.database) if settings.database else Database.open(settings.database_file)


def find_database(settings: Settings) -> Database | None:
    """The database that the settings name, unmigrated; None if it does not exist. Raises like ``open_database``."""
    if settings.database:
        server = postgresql()(settings.database)
        return server if server.exists() else None
    return Database(settings.database_file) if settings.database_file.exists() else None


def postgresql() -> "type[PostgresDatabase]":
    """Import the PostgreSQL implementation. Raises InvalidParams if its client library is not installed."""
    try:
        from diffusion_local.db.postgresql import PostgresDatabase
    except ImportError:
        raise InvalidParams("database", message("database_library")) from None
    return PostgresDatabase
