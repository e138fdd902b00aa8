"""The PostgreSQL database: connections, transactions, migrations, and errors translated to DatabaseProblem.

Every write transaction holds the same advisory lock from start to end, so there is a single writer at a time, as in
SQLite: the queue order reads and writes state that all claims share. Reads see one snapshot and never wait.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from diffusion_local import actor
from diffusion_local.db import translation
from diffusion_local.db.database import Database, Row, Transaction, Values
from diffusion_local.db.migrations import SQL_FILES, statements
from diffusion_local.db.server_changes import CHANNEL, Changes
from diffusion_local.db.server_connections import Session, check_url, display
from diffusion_local.db.sqlite_connections import BUSY_SECONDS
from diffusion_local.db.write_lock import ThreadTurns
from diffusion_local.domain import utc_text
from diffusion_local.errors import Conflict, DatabaseProblem, InvalidParams
from diffusion_local.messages import Message, message

if TYPE_CHECKING:
    from diffusion_local.db.server_lock import ServerLock

log = logging.getLogger(__name__)

#: Keys of advisory locks. Slot locks have another first number, so they never collide with these.
LOCKS = 0x6469_6666
WRITE_LOCK, MIGRATION_LOCK = 1, 2
#: How long to check, on a new connection, whether an unanswered COMMIT took effect.
OUTCOME_SECONDS = 10.0
#: Begins a write transaction, with sorts disabled: the first of many rows must come from an ordered index. While the
#: statistics are older than a long list, the planner would otherwise read and sort all queued jobs.
#: The notification is sent with the COMMIT (``server_changes``), which does not wait for the disk; COMMIT_WRITE does.
BEGIN_WRITE = (
    "SELECT begin_write($1::int, $2::int, $3, $4), set_config('enable_sort', 'off', true), "
    f"set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', '')"
)
#: Waits until all that was committed before is on disk: a transaction that changes no row, but is logged.
FLUSH = "SELECT pg_logical_emit_message(true, 'diffusion-local', '')"
#: Commits a write and waits for the disk, in one message. The next writer has the lock meanwhile, so writers wait for
#: the disk together instead of one after another.
COMMIT_WRITE = f"COMMIT; {FLUSH}"
CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
LOCKED = {"55P03", "40P01", "40001"}
NO_ROOM = {"53100", "53200", "53300"}
READ_ONLY = {"25006", "42501"}
DAMAGED = {"XX001", "XX002", "58030"}
MIGRATED = "diffusion_local_migrations"


class PostgresTransaction(Transaction):
    """A transaction that translates the stores' statements to PostgreSQL's dialect."""

    __slots__ = ("_connection",)

    translated = True

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection

    def execute(self, sql: str, values: Values = ()) -> Any:  # type: ignore[override]
        text, bound = bind(sql, values)
        return self._connection.execute(text, bound)

    def execute_many(self, sql: str, rows: Iterable[Values]) -> None:  # type: ignore[override]
        for values in rows:
            self.execute(sql, values)

    def query(self, sql: str, values: Values = ()) -> Iterator[Row]:
        cursor = self.execute(sql, values)
        names = column_names(cursor)
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def stream(self, sql: str) -> Iterator[Row]:
        with psycopg.RawServerCursor(self._connection, f"rows{secrets.token_hex(4)}") as cursor:
            cursor.itersize = 2000
            cursor.execute(bind(sql, ())[0])
            names = column_names(cursor)
            for row in cursor:
                yield dict(zip(names, row, strict=True))


def column_names(cursor: "psycopg.Cursor[Any] | psycopg.RawServerCursor[Any]") -> list[str]:
    """Names of a result's columns; ``description``, which makes an object for each, takes longer than a short query."""
    result = cursor.pgresult
    return [(result.fname(index) or b"").decode() for index in range(result.nfields)] if result is not None else []


def bind(sql: str, values: Values) -> tuple[str, list[Any]]:
    """Translate a store's statement; returns (PostgreSQL's SQL, its values)."""
    statement = translation.translate(sql)
    if isinstance(values, Mapping):
        nulls = frozenset(key for key in statement.keys if key is not None and values[key] is None)  # type: ignore[index]
    else:
        nulls = frozenset(index for index, value in enumerate(values) if value is None)
    who = actor.current()
    text, keys = rendered(sql, nulls, bool(who.sees_all), bool(who.rules_all))
    return text, [who.name if key is None else values[key] for key in keys]  # type: ignore[call-overload,index]


@lru_cache(maxsize=4000)
def rendered(sql: str, nulls: frozenset[Any], sees_all: bool, rules_all: bool) -> tuple[str, tuple[object, ...]]:
    return translation.translate(sql).render(nulls, sees_all, rules_all)


class PostgresDatabase(Database):
    """A database on a PostgreSQL server, with the interface of ``Database``."""

    on_server = True

    def __init__(self, url: str) -> None:
        """Check the URL; the first use connects. Raises InvalidParams for an unusable URL."""
        self.url = check_url(url)
        self.name = display(url)
        self._session = Session(url)
        self._process, self._turns = os.getpid(), ThreadTurns()
        self._changes = Changes(url)

    @classmethod
    def open(cls, url: str | Path) -> "PostgresDatabase":
        """Create or migrate the tables. Raises DatabaseProblem, whose message names the remedy, and InvalidParams."""
        database = cls(str(url))
        with database.problems():
            database._migrate()
        return database

    def exists(self) -> bool:
        """Whether the server has this program's tables."""
        with self.problems():
            return bool(applied(self._session.connection()))

    def _migrate(self) -> None:
        connection = self._session.connection()
        if [name for name, _ in SQL_FILES] == applied(connection):
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", [LOCKS, MIGRATION_LOCK])
            done = applied(connection)
            if newer := self._newer(done):
                raise DatabaseProblem(newer)
            if not done:
                run_script(connection, translation.functions())
                run_script(connection, f"CREATE TABLE {MIGRATED} (name text PRIMARY KEY, at text NOT NULL)")
            for name, path in SQL_FILES:
                if name not in done:
                    for statement in translation.migration(name, statements(path.read_text(encoding="utf-8"))):
                        run_script(connection, statement)
                    connection.execute(f"INSERT INTO {MIGRATED} VALUES ($1, utc_now())", [name])

    def _newer(self, done: list[str]) -> Message | None:
        """The error message if the tables belong to a newer program, else None."""
        unknown = sorted(set(done) - {name for name, _ in SQL_FILES})
        return message("database_newer", file=self.name, version=unknown[-1]) if unknown else None

    def backup(self, target: Path) -> None:
        raise Conflict(message("database_backup_server"))

    def upkeep(self) -> None:
        """Refresh the planner's statistics; the server's autovacuum does the rest."""
        with self.write() as db:
            db.execute("DELETE FROM last_writes WHERE at < ?", [utc_text(datetime.now(UTC) - timedelta(days=1))])
        with self.problems():
            self._session.connection().execute("ANALYZE")

    def probe(self) -> None:
        """Check that the database is writable, and commit. Raises DatabaseProblem if it is not."""
        with self.write() as db:
            db.execute("UPDATE clock SET at = at WHERE id = 1")

    def findings(self) -> list[str]:
        """Read the tables, so that the server reports a file that is lost or has a wrong checksum."""
        with self.problems():
            if newer := self._newer(applied(self._session.connection())):
                return [newer]
        with self.read() as db:
            for table in ("jobs", "images", "batches", "job_events"):
                db.scalar(f"SELECT count(*) FROM {table}")
        return []

    def lock(self, path: Path) -> "ServerLock":
        """A lock against every machine that uses the database, named after the lock file ``path``."""
        from diffusion_local.db.server_lock import ServerLock

        return ServerLock(self, path.name)

    def close(self) -> None:
        """Close this thread's connection."""
        self._session.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.problems():
            connection = self._begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            with self._rolled_back_on_error(connection):
                yield PostgresTransaction(connection)
                connection.execute("COMMIT")

    def fetch(self, sql: str, values: Values = ()) -> list[Row]:
        with self.problems():
            connection = self._session.connection()
            alone = connection.info.transaction_status == TransactionStatus.IDLE
            try:
                return list(PostgresTransaction(connection).query(sql, values))
            except CONNECTION_ERRORS:
                if not alone:
                    raise
                self._session.close()  # lost while it was idle
                return list(PostgresTransaction(self._session.connection()).query(sql, values))

    @contextlib.contextmanager
    def write(self, patient: bool = False) -> Iterator[Transaction]:
        with self.problems():
            connection = self._begin("BEGIN")
            with self._rolled_back_on_error(connection):
                write = self._session.next_write()
                with self._turn(patient):
                    connection.execute(BEGIN_WRITE, [LOCKS, WRITE_LOCK, *write])
                yield PostgresTransaction(connection)
                try:
                    connection.execute(COMMIT_WRITE, prepare=False)  # of two statements, which cannot be prepared
                except CONNECTION_ERRORS as error:
                    if not self._committed(*write):
                        raise error
            self._changes.note()

    @contextlib.contextmanager
    def _turn(self, patient: bool) -> Iterator[None]:
        """Let one thread of this process at a time wait for the server's lock, which has no priorities."""
        if self._process != os.getpid():  # after a fork: the other threads do not exist in the child
            self._process, self._turns = os.getpid(), ThreadTurns()
        turns = self._turns
        if not turns.acquire(patient, BUSY_SECONDS):
            raise DatabaseProblem(message("database_locked", file=self.name, seconds=BUSY_SECONDS))
        try:
            yield
        finally:
            turns.release()

    def writes(self) -> int | None:
        return self._changes.count()

    def _begin(self, begin: str) -> "psycopg.Connection[Any]":
        """Begin a transaction, on a new connection if the old one was lost while it was idle."""
        connection = self._session.connection()
        try:
            connection.execute(begin)
        except CONNECTION_ERRORS:
            self._session.close()
            connection = self._session.connection()
            connection.execute(begin)
        return connection

    @contextlib.contextmanager
    def _rolled_back_on_error(self, connection: "psycopg.Connection[Any]") -> Iterator[None]:
        try:
            yield
        except BaseException:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:  # lost: the server rolls back
                self._session.close()
            raise

    def _committed(self, session: str, number: int) -> bool:
        """Whether a transaction whose COMMIT got no answer was committed. Once the server is back, the number of the
        session's last write shows it. Taking the lock waits for the old connection's transaction to end.
        """
        deadline = time.monotonic() + OUTCOME_SECONDS
        while time.monotonic() < deadline:
            self._session.close()
            try:
                connection = self._session.connection()
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", [LOCKS, WRITE_LOCK])
                    found = connection.execute(
                        "SELECT number FROM last_writes WHERE session = $1", [session]
                    ).fetchone()
                    connection.execute(FLUSH)
                return found == (number,)
            except CONNECTION_ERRORS:
                time.sleep(0.2)
        return False

    @contextlib.contextmanager
    def problems(self) -> Iterator[None]:
        """Translate PostgreSQL's errors to DatabaseProblem with a message that names the remedy."""
        try:
            yield
        except UnicodeEncodeError:
            raise InvalidParams("text", message("half_searched")) from None
        except psycopg.DataError as error:
            if "NUL" in str(error) or error.sqlstate in ("22P05", "22021"):
                raise InvalidParams("text", message("text_nul")) from None
            raise
        except psycopg.Error as error:
            text, code = " ".join(str(error).split()), error.sqlstate or ""
            if code in LOCKED:
                raise DatabaseProblem(message("database_locked", file=self.name, seconds=BUSY_SECONDS)) from error
            if code in READ_ONLY or "read-only" in text:
                raise DatabaseProblem(message("database_owner", file=self.name, error=text)) from error
            if code in DAMAGED:
                raise DatabaseProblem(message("database_server_fault", file=self.name, error=text)) from error
            if code in NO_ROOM:
                raise DatabaseProblem(message("database_server_room", file=self.name, error=text)) from error
            if isinstance(error, CONNECTION_ERRORS) or code[:2] in ("08", "57", "28", "3D"):
                self._session.close()
                raise DatabaseProblem(message("database_server_gone", file=self.name, error=text)) from error
            raise same_error(error, text) from error


def same_error(error: psycopg.Error, text: str) -> sqlite3.Error:
    """SQLite's error of the same DB-API class, because stores handle only that hierarchy."""
    names = {each.__name__ for each in type(error).__mro__}
    found = next((kind for kind in (sqlite3.IntegrityError, sqlite3.ProgrammingError) if kind.__name__ in names), None)
    return (found or sqlite3.OperationalError)(text)


def applied(connection: "psycopg.Connection[Any]") -> list[str]:
    """Names of the migrations applied to the database, in order; empty for a new one."""
    if connection.execute("SELECT to_regclass($1)", [MIGRATED]).fetchone() == (None,):
        return []
    return [name for (name,) in connection.execute(f"SELECT name FROM {MIGRATED} ORDER BY name").fetchall()]


def run_script(connection: "psycopg.Connection[Any]", sql: str) -> None:
    """Execute several statements at once. None of them returns rows."""
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(sql)
