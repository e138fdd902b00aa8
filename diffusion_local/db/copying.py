"""Copies all rows from one database to another, SQLite or PostgreSQL, and verifies them, in one transaction."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from diffusion_local.db import search
from diffusion_local.db.database import Database, Row, Transaction
from diffusion_local.errors import Conflict, StorageProblem
from diffusion_local.messages import message

#: Tables of running work, which belongs to the machines that use the old database.
LEFT_OUT = ("leases", "loans", "workers")
#: Tables that already have rows in a new database.
SEEDED = ("clock", "queue", "turns")
#: Tables with a generated row number, which new rows must continue.
NUMBERED = ("gates", "job_events", "notices")


def copy_rows(source: Database, target: Database) -> dict[str, int]:
    """Copy every table; returns the number of rows by table.

    Raises Conflict if jobs are running or the target is not empty, and StorageProblem if the written rows differ from
    those read. In both cases the target is unchanged.
    """
    with source.read() as old, target.write() as new:
        if running(old):
            raise Conflict(message("move_running"))
        names = tables(old)
        if names != tables(new):
            raise Conflict(message("move_schemas"))
        if not empty(new):
            raise Conflict(message("move_not_empty", place=target.name))
        with without_triggers(new, list(names)):
            for table in reversed(names):
                new.execute(f"DELETE FROM {table}")
            copied = {table: copy_table(old, new, table, columns) for table, columns in names.items()}
        rebuild_text_index(new)
        return copied


def require_idle(database: Database) -> None:
    """Raise Conflict while jobs are running."""
    with database.read() as db:
        if running(db):
            raise Conflict(message("move_running"))


def require_empty(database: Database) -> None:
    """Raise Conflict if the database has any data."""
    with database.read() as db:
        if not empty(db):
            raise Conflict(message("move_not_empty", place=database.name))


def running(db: Transaction) -> bool:
    return db.scalar("SELECT 1 FROM jobs WHERE state = 'running' LIMIT 1") is not None


def empty(db: Transaction) -> bool:
    return not any(table not in SEEDED and db.scalar(f"SELECT 1 FROM {table} LIMIT 1") for table in tables(db))


def tables(db: Transaction) -> dict[str, tuple[str, ...]]:
    """Columns to copy by table, primary key first. A table comes after the tables that it references."""
    keys: dict[str, tuple[str, ...]] = {}
    if db.translated:
        listed = db.execute(
            "SELECT c.relname, a.attname, coalesce(array_position(i.indkey::int2[], a.attnum), 99) "
            "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
            "LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary "
            "WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND a.attgenerated = ''"
        ).fetchall()
        rows = [(table, column, place) for table, column, place in listed]
    else:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = [
            (table, row["name"], row["pk"] - 1 if row["pk"] else 99)
            for (table,) in names
            for row in db.query(f"SELECT * FROM pragma_table_xinfo('{table}')")
            if row["hidden"] == 0
        ]
    for table in sorted({table for table, _, _ in rows}):
        if not table.startswith(("sqlite_", "_sqlite", "images_text", "huey_", "diffusion_local_", "last_writes")):
            own = sorted((place, column) for each, column, place in rows if each == table)
            keys[table] = tuple(column for _, column in own)
    for table in LEFT_OUT:
        keys.pop(table, None)
    first = [table for table in ("accounts", "batches", "boards") if table in keys]
    return {table: keys[table] for table in (*first, *(each for each in keys if each not in first))}


def copy_table(old: Transaction, new: Transaction, table: str, columns: tuple[str, ...]) -> int:
    read, written = Digest(), Digest()
    new.insert_many(table, read.passing(ordered(old, table, columns)))
    for _ in written.passing(ordered(new, table, columns)):
        pass
    if (read.rows, read.text) != (written.rows, written.text):
        raise StorageProblem(message("move_differs", what=table))
    if new.translated and table in NUMBERED:
        new.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0")
    return read.rows


def ordered(db: Transaction, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """All rows of a table, streamed in key order."""
    names = ", ".join(f'"{name}"' for name in columns)
    return db.stream(f"SELECT {names} FROM {table} ORDER BY {names}")


class Digest:
    """Counts and hashes (SHA-256) the rows of a stream."""

    def __init__(self) -> None:
        self.rows = 0
        self._sha = sha256()

    def passing(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows += 1
            self._sha.update(json.dumps([each for _, each in sorted(row.items())]).encode())
            yield {f'"{name}"': value for name, value in row.items()}

    @property
    def text(self) -> str:
        return self._sha.hexdigest()


class without_triggers:  # lower case: used as a ``with`` statement
    """Context manager in which writes to the tables fire no triggers."""

    def __init__(self, db: Transaction, names: list[str]) -> None:
        self._db, self._names = db, names
        self._texts: list[str] = []

    def __enter__(self) -> None:
        if self._db.translated:
            for table in self._names:
                self._db.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            return
        found = self._db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        self._texts = [text for _, text in found]
        for name, _ in found:
            self._db.execute(f"DROP TRIGGER {name}")

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:  # the rollback of the transaction restores the triggers
            return
        for table in self._names if self._db.translated else ():
            self._db.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        for text in self._texts:
            self._db.execute(text)


def rebuild_text_index(db: Transaction) -> None:
    if not db.translated:
        for table in search.INDEXES:
            db.execute(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")
        return
    db.execute("DELETE FROM images_text")
    for row in db.stream("SELECT id, prompt, caption FROM images ORDER BY id"):
        search.add(db, row["id"], row["prompt"], row["caption"])
