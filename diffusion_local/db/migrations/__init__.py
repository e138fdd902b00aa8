"""The schema as append-only migrations: one SQL file each, applied in name order.

They are written for SQLite; ``db.translation`` translates them for PostgreSQL.

A released migration is never edited; ``sqlite_utils`` records the applied ones. Invariants are CHECK constraints.
History, counts, notifications and ``queue.revision`` are maintained by triggers, so that no code can forget them.
"""

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sqlite_utils import Database, Migrations

from diffusion_local.db.dialect import recipe_mark
from diffusion_local.options.table import Params

MIGRATIONS = Migrations("diffusion_local")


def run(file: Path, db: Database) -> None:
    """Execute a migration. Its SQL may call ``recipe_mark(params_json)``."""
    db.conn.create_function("recipe_mark", 1, lambda text: recipe_mark(Params.from_json(text)), deterministic=True)
    for statement in statements(file.read_text(encoding="utf-8")):
        db.execute(statement)


def statements(text: str) -> Iterator[str]:
    """Split SQL into statements; a trigger's inner semicolons do not split it."""
    statement = ""
    for line in text.splitlines(keepends=True):
        if statement or (line.strip() and not line.startswith("--")):  # skip comments between statements
            statement += line
        if statement and sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if statement:
        raise ValueError(f"an unfinished statement: {statement}")


#: Names and files of all migrations, in order.
SQL_FILES = [(step.stem, step) for step in sorted(Path(__file__).parent.glob("*.sql"))]

for name, step in SQL_FILES:
    MIGRATIONS(name=name)(partial(run, step))
