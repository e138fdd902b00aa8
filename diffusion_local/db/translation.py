"""Translates SQL from SQLite's dialect to PostgreSQL's: statements of the stores, and the migrations.

The stores write portable SQL with the fragments of ``db.dialect`` and ``db.search``. Differences are rewritten by
patterns that leave string literals and comments alone. SQLite's functions are defined in PostgreSQL under the same
names (``postgresql.sql``), so calls need no rewriting. Constructs that the translator does not know reach PostgreSQL
unchanged, and the contract tests fail there.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

#: Literals, quoted names and comments; then placeholders; then words and everything else, character by character.
TOKENS = re.compile(
    r"(?P<literal>'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*)|(?P<name>(?<![:\w]):[a-z_]\w*)|(?P<mark>\?)|(?P<other>\w+|[\s\S])"
)
#: Rewritings of statements, outside of literals. The order matters.
REWRITINGS = [
    (re.compile(pattern, re.IGNORECASE), by)
    for pattern, by in (
        (r"\s+INDEXED\s+BY\s+\w+", ""),  # PostgreSQL's planner chooses
        (  # look rows up one by one: the planner would scan a table that it assumes to be small
            r"\bCROSS\s+JOIN\s+(\w+)(?:\s+AS\s+\w+)?\s+ON\s+(\w+)\.rowid\s*=\s*(\w+\.\w+)",
            r"CROSS JOIN LATERAL (SELECT * FROM \1 AS \2 WHERE \2.ctid = \3 OFFSET 0) AS \2",
        ),
        (r"\bCROSS\s+JOIN(\s+\w+(?:\s+AS\s+\w+)?\s+ON\b)", r"JOIN\1"),
        (r"\bimages_text\.rowid\b", "images_text.number"),
        (r"(?<!:)\browid\b", "ctid"),
        (r"\bimages_text\s+MATCH\s+(:\w+)", r"images_text.words @@ CAST(\1 AS tsquery)"),
        (r"(?<!:)\bLIKE\b", "ILIKE"),  # SQLite's LIKE ignores the case of ASCII letters
        (r"\blower\(", "ascii_lower("),  # ASCII only, like SQLite's, whatever the server's locale
        (r"(?<!:)\bwindow\b", '"window"'),  # a reserved word
        (r"\bCAST\((.+?)\s+AS\s+INTEGER\)", r"CAST(\1 AS bigint)"),
        (r"\bIS\s+NOT\s+((?:new|old)\.\w+)", r"IS DISTINCT FROM \1"),
    )
]
NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
#: Functions that SQLite connections define in Python; here they are replaced by their values for the current actor.
ACTOR_NAME, SEES_ALL, RULES_ALL = "actor_name()", "actor_sees_all()", "actor_rules_all()"
#: The last migration from before PostgreSQL was supported. No PostgreSQL database has rows from before it, so its
#: UPDATE statements, and those of earlier migrations, are left out.
FIRST_SCHEMA = "m020_leases"
SECTION = re.compile(r"^-- instead of (\S+)\n", re.MULTILINE)
TRIGGER = re.compile(
    r"CREATE TRIGGER (?P<name>\w+) (?P<when>AFTER (?P<event>INSERT|UPDATE|DELETE)(?P<columns> OF [\w, ]+?)?) "
    r"ON (?P<table>\w+)\s*(?:WHEN (?P<condition>.+?)\s*)?\bBEGIN\b(?P<body>.+)END;?$",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A translated statement: pieces of SQL, and the keys of the values that go between them.

    A key is a value's name, its index, or None for the current actor's name.
    """

    texts: tuple[str, ...]
    keys: tuple[str | int | None, ...]

    def render(self, nulls: Collection[str | int], sees_all: bool, rules_all: bool) -> tuple[str, tuple[object, ...]]:
        """(SQL with ``$1``, ``$2``..., keys of their values).

        NULLs become literals, whose type PostgreSQL infers from the context.
        """
        numbers: dict[object, int] = {}
        parts = [self.texts[0]]
        for key, text in zip(self.keys, self.texts[1:], strict=True):
            parts.append("NULL" if key in nulls else f"${numbers.setdefault(key, len(numbers) + 1)}")
            parts.append(text)
        sql = "".join(parts)
        for function, value in ((SEES_ALL, sees_all), (RULES_ALL, rules_all)):
            sql = sql.replace(function, "true" if value else "false")
        return sql, tuple(numbers)


@lru_cache(maxsize=2000)
def translate(sql: str) -> Statement:
    """Translate a store's statement."""
    text = rewritten(sql).replace(ACTOR_NAME, ":" + ACTOR_NAME.removesuffix("()"))
    texts, marks = [""], 0
    keys: list[str | int | None] = []
    for token in TOKENS.finditer(text):
        if token.lastgroup == "name":
            name = token.group()[1:]
            keys.append(None if name == ACTOR_NAME.removesuffix("()") else name)
            texts.append("")
        elif token.lastgroup == "mark":
            keys.append(marks)
            texts.append("")
            marks += 1
        else:
            texts[-1] += token.group()
    return Statement(tuple(texts), tuple(keys))


def rewritten(sql: str) -> str:
    """Rewrite SQL to PostgreSQL's dialect, leaving placeholders unchanged."""
    sql = sql.replace(NOW, "utc_now()")
    literals: list[str] = []

    def keep(token: re.Match[str]) -> str:
        if token.lastgroup != "literal" or token.group().startswith("--"):
            return token.group() if token.lastgroup != "literal" else ""
        literals.append(token.group())
        return f"\0{len(literals) - 1}\0"

    text = TOKENS.sub(keep, sql)
    for pattern, by in REWRITINGS:
        text = pattern.sub(by, text)
    return re.sub("\0(\\d+)\0", lambda found: literals[int(found[1])], text)


# -- migrations --------------------------------------------------------------------------------------------------------

FUNCTIONS_FILE = Path(__file__).with_name("postgresql.sql")
COLUMN_TYPES = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\bINTEGER PRIMARY KEY( AUTOINCREMENT)?", "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"),
        (r"\bINTEGER\b", "bigint"),
        (r"\bTEXT\b", 'text COLLATE "C"'),  # SQLite compares bytes
        (r"\bREAL\b", "double precision"),
        (r"\)\s*WITHOUT ROWID", ")"),
        (r"(?s)\bAS (\(.+\)) VIRTUAL", r"GENERATED ALWAYS AS \1 STORED"),
    )
]


def functions() -> str:
    """SQL that defines SQLite's functions in PostgreSQL, for execution before the first migration."""
    return SECTION.split(FUNCTIONS_FILE.read_text(encoding="utf-8"))[0]


@lru_cache(maxsize=1)
def exceptions() -> Mapping[str, str]:
    """Hand-written PostgreSQL statements that replace a translation, by ``migration.name`` of the trigger or table."""
    found = SECTION.split(FUNCTIONS_FILE.read_text(encoding="utf-8"))
    return dict(zip(found[1::2], (text.strip() for text in found[2::2]), strict=True))


def migration(name: str, statements: Iterator[str]) -> Iterator[str]:
    """Translate a migration's statements from SQLite to PostgreSQL. Raises ValueError for one that has no
    translation.
    """
    for statement in statements:
        if own := exceptions().get(f"{name}.{subject(statement)}"):
            yield own
        elif statement.startswith("CREATE TRIGGER"):
            yield trigger(statement)
        elif statement.startswith("DROP TRIGGER"):
            yield f"DROP FUNCTION {subject(statement)}() CASCADE"  # and with it the trigger
        elif statement.startswith("UPDATE") and name <= FIRST_SCHEMA:
            continue
        elif statement.startswith(("CREATE VIRTUAL", "PRAGMA")):
            raise ValueError(f"{name}: no translation of {statement}")
        else:
            yield definition(statement)


def subject(statement: str) -> str:
    """The table, view, index or trigger that a statement defines or changes."""
    match = re.match(
        r"(?:CREATE(?: UNIQUE| VIRTUAL)? (?:TABLE|VIEW|INDEX|TRIGGER)|DROP \w+|ALTER TABLE"
        r"|INSERT(?: OR \w+)? INTO|UPDATE) (\w+)",
        statement,
    )
    return match[1] if match else ""


def definition(statement: str) -> str:
    """Translate a statement that defines a table, a column or an index, or writes rows."""
    text = re.sub(r"--[^\n]*", "", statement)
    if statement.startswith(("CREATE TABLE", "ALTER TABLE")):
        for pattern, by in COLUMN_TYPES:
            text = pattern.sub(by, text)
    return rewritten(text)


def trigger(statement: str) -> str:
    """Translate a trigger to a function and a trigger that calls it.

    A trigger that does not refer to the changed row runs once per statement instead of once per row, because it would
    update the same row repeatedly within one transaction.
    """
    match = TRIGGER.match(statement)
    if match is None:
        raise ValueError(f"not understood: {statement}")
    name, table, event, condition = match["name"], match["table"], match["event"], match["condition"]
    body, each, changed = match["body"].strip(), "ROW", ""
    if not condition and not match["columns"] and not re.search(r"\b(new|old)\.", body):
        each, condition = "STATEMENT", "EXISTS (SELECT 1 FROM changed)"
        changed = f"REFERENCING {'OLD' if event == 'DELETE' else 'NEW'} TABLE AS changed "
    code = rewritten(body)
    if condition:
        code = f"IF {rewritten(condition)} THEN\n{code}\nEND IF;"
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN\n{code}\nRETURN NULL;\n"
        f"END $code$;\nCREATE TRIGGER {name} {rewritten(match['when'])} ON {table} {changed}FOR EACH {each} "
        f"EXECUTE FUNCTION {name}();"
    )
