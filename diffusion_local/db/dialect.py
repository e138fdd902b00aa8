"""SQLite-specific SQL, named by purpose, and facts about the tables that several queries rely on.

Stores write portable SQL and insert these fragments; for PostgreSQL ``db.translation`` rewrites them. An architecture
test rejects dialect-specific SQL outside of ``db/``.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from diffusion_local.options.table import Params

if TYPE_CHECKING:  # the migrations, which ``db.database`` imports, use this module
    from diffusion_local.db.database import Transaction

DAY_SECONDS = 86400
#: Index = ``jobs.list_rank``: the order of states in a batch's job list.
RANKS = ("running", "queued", "failed", "done", "cancelled")
#: Orientation of a picture: 1 landscape, 0 square, -1 portrait. This exact expression is indexed.
SHAPE = "(width > height) - (width < height)"
#: Size of a picture. This exact expression is indexed.
IMAGE_PIXELS = "width * height"
#: Maximum failed jobs per batch that cause a notification each; the batch's report lists all of them.
FAILURES_NOTIFIED = 20


def by_index(table: str, index: str) -> str:
    """A table read through the given index only. With fresh statistics the planner would otherwise scan the table."""
    return f"{table} INDEXED BY {index}"


def in_list(column: str, values: str = ":ids") -> str:
    """Condition: the column is one of many values, bound as one parameter made by ``as_list``. Their number is
    unlimited, and the statement text stays the same.
    """
    return f"{column} IN ({list_rows(values)})"


def not_in_list(column: str, values: str) -> str:
    return f"{column} NOT IN ({list_rows(values)})"


def in_numbers(column: str, values: str) -> str:
    """``in_list`` for a column of integers."""
    return f"{column} IN (SELECT CAST(value AS INTEGER) FROM json_each({values}))"


def list_rows(values: str = ":ids") -> str:
    """SELECT that yields one row ``value`` per list element."""
    return f"SELECT value FROM json_each({values})"


def as_list(values: Iterable[Any]) -> str:
    """Bind value for ``in_list`` and ``list_rows``."""
    return json.dumps(list(values))


def json_field(column: str, name: str) -> str:
    """A field of the JSON object in a column, or NULL."""
    return f"json_extract({column}, '$.{name}')"


def seconds_between(start: str, end: str) -> str:
    """Seconds between two UTC timestamps stored as text; NULL if either is NULL."""
    return f"(julianday({end}) - julianday({start})) * {DAY_SECONDS}"


def contains(text: str, part: str) -> str:
    """Condition: ``text`` contains ``part``, ignoring case."""
    return f"instr(lower({text}), lower({part})) > 0"


def first_of_each(source: str, groups: tuple[str, str], order: str, columns: str) -> str:
    """SELECT of the first row by ``order`` for each distinct pair of the two ``groups`` columns.

    ``source`` is ``table WHERE condition``, read through an index over the two columns and ``order``, so each row
    takes one index look-up regardless of the size of its group.
    """
    outer, inner = groups
    table = source.split()[0]
    return f"""
        WITH RECURSIVE head (number) AS (
            SELECT (SELECT rowid FROM {source} ORDER BY {outer}, {inner}, {order} LIMIT 1)
            UNION ALL
            SELECT coalesce(
                (SELECT rowid FROM {source} AND {outer} = last.{outer} AND {inner} > last.{inner}
                 ORDER BY {inner}, {order} LIMIT 1),
                (SELECT rowid FROM {source} AND {outer} > last.{outer} ORDER BY {outer}, {inner}, {order} LIMIT 1))
            FROM head CROSS JOIN {table} AS last ON last.rowid = head.number
        )
        SELECT {columns} FROM head CROSS JOIN {table} ON {table}.rowid = head.number
    """


def distinct_values(db: "Transaction", table: str, column: str, where: str = "true") -> list[Any]:
    """Distinct non-NULL values of an indexed column, ascending, with one index look-up per value."""
    least = f"SELECT min({column}) FROM {table} WHERE {where}"
    cursor = db.execute(
        f"WITH RECURSIVE each (value) AS ({least} UNION ALL "
        f"SELECT ({least} AND {column} > each.value) FROM each WHERE value IS NOT NULL) "
        "SELECT value FROM each WHERE value IS NOT NULL"
    )
    return [row[0] for row in cursor.fetchall()]


def count_distinct(db: "Transaction", source: str, column: str, most: int) -> int:
    """Number of distinct values of an indexed column, counted up to ``most``. ``source``: see ``first_of_each``."""
    least = f"SELECT min({column}) FROM {source}"
    return db.scalar(
        f"WITH RECURSIVE each (id, number) AS (SELECT ({least}), 1 UNION ALL "
        f"SELECT ({least} AND {column} > each.id), number + 1 FROM each WHERE id IS NOT NULL AND number < :most) "
        "SELECT count(id) FROM each",
        most=most,
    )


def recipe_mark(params: Params) -> str:
    """``images.mark``: equal for equal recipes, seed included. The first 64 bits of SHA-256, in hex."""
    return sha256(params.to_json().encode()).hexdigest()[:16]
