"""The tables, as append-only steps: one file of SQL each, in the order of their names.

A released step is never edited; ``sqlite_utils`` records which have run. Invariants are CHECKs; history, counts,
notices and ``queue.revision`` are written by triggers, so that no code can forget them.
"""

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sqlite_utils import Database, Migrations

from diffusion_local.db.schema import recipe_mark
from diffusion_local.domain import Params

MIGRATIONS = Migrations("diffusion_local")


def run(file: Path, db: Database) -> None:
    """Execute a step. Its SQL may call ``recipe_mark`` with the JSON of Params."""
    db.conn.create_function("recipe_mark", 1, lambda text: recipe_mark(Params.from_json(text)), deterministic=True)
    for statement in statements(file.read_text(encoding="utf-8")):
        db.execute(statement)


def statements(text: str) -> Iterator[str]:
    """The statements of a file, triggers with the semicolons inside them whole."""
    statement = ""
    for line in text.splitlines(keepends=True):
        if statement or (line.strip() and not line.startswith("--")):  # a comment before a statement is not part of it
            statement += line
        if statement and sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if statement:
        raise ValueError(f"an unfinished statement: {statement}")


for step in sorted(Path(__file__).parent.glob("*.sql")):
    MIGRATIONS(name=step.stem)(partial(run, step))
