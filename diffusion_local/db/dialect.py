"""SQL that only this database understands, by the name of what it does.

Stores write portable SQL and put these into it; another database answers each in its own way. A test of the
architecture fails where such SQL stands outside of ``db/``.
"""

import json
from collections.abc import Iterable
from typing import Any

from diffusion_local.db.database import Transaction

DAY_SECONDS = 86400


def by_index(table: str, index: str) -> str:
    """A table that is to be read by this index. With fresh statistics the planner would rather read every row."""
    return f"{table} INDEXED BY {index}"


def in_list(column: str, values: str = ":ids") -> str:
    """Whether a column is one of many values, given as one value made by ``as_list``: there is no limit to their
    number, and the statement's text stays the same."""
    return f"{column} IN ({list_rows(values)})"


def not_in_list(column: str, values: str) -> str:
    return f"{column} NOT IN ({list_rows(values)})"


def list_rows(values: str = ":ids") -> str:
    """A SELECT of ``value`` for each of a list."""
    return f"SELECT value FROM json_each({values})"


def as_list(values: Iterable[Any]) -> str:
    """Values for ``in_list`` and ``list_rows``."""
    return json.dumps(list(values))


def field(column: str, name: str) -> str:
    """A field of the JSON object in a column; NULL if it has none."""
    return f"json_extract({column}, '$.{name}')"


def seconds_between(start: str, end: str) -> str:
    """Seconds from one time to another, both texts of UTC; NULL if one is."""
    return f"(julianday({end}) - julianday({start})) * {DAY_SECONDS}"


def contains(text: str, part: str) -> str:
    """Whether a text has another in it, in capitals or not."""
    return f"instr(lower({text}), lower({part})) > 0"


def first_of_each(source: str, groups: tuple[str, str], order: str, columns: str) -> str:
    """A SELECT of the first row, by ``order``, for each pair of values that two columns have.

    ``source`` is ``table WHERE condition``, read by an index over the two columns and ``order``: each row is found by
    one look-up, however many rows stand behind it.
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


def each_value(db: Transaction, table: str, column: str, where: str = "true") -> list[Any]:
    """The different values of an indexed column, ascending, but for NULL: from each the index is asked for the next."""
    least = f"SELECT min({column}) FROM {table} WHERE {where}"
    found = db.execute(
        f"WITH RECURSIVE each (value) AS ({least} UNION ALL "
        f"SELECT ({least} AND {column} > each.value) FROM each WHERE value IS NOT NULL) "
        "SELECT value FROM each WHERE value IS NOT NULL"
    )
    return [row[0] for row in found.fetchall()]


def count_values(db: Transaction, source: str, column: str, most: int) -> int:
    """How many different values an indexed column has, counted up to ``most``; ``source`` as in ``first_of_each``."""
    least = f"SELECT min({column}) FROM {source}"
    return db.scalar(
        f"WITH RECURSIVE each (id) AS ({least} UNION ALL SELECT ({least} AND {column} > each.id) FROM each "
        "WHERE id IS NOT NULL LIMIT :limit) SELECT count(id) FROM each",
        limit=most,
    )
