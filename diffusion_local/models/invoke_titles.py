"""Names of InvokeAI's models, from its database: the folders that hold them are named by numbers."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

MOST_MODELS = 20_000
#: Its table of models: since version 5, and before.
TABLES = ("models", "model_config")


def invoke_titles(root: Path) -> dict[Path, str]:
    """The name of each model of an InvokeAI root by its path, which may lie anywhere; empty for other folders."""
    database = root / "databases/invokeai.db"
    try:
        if not database.is_file():
            return {}
        address = f"{database.resolve().as_uri()}?mode=ro&immutable=1"  # writes nothing beside it
        with closing(sqlite3.connect(address, uri=True)) as connection:
            return {root / "models" / path: name for name, path in described(connection)}
    except (OSError, ValueError, sqlite3.Error):
        return {}


def described(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """(name, path) of each model."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master")}
    table = next((each for each in TABLES if each in tables), "")
    for (config,) in connection.execute(f"select config from {table}").fetchmany(MOST_MODELS) if table else ():
        try:
            entry = json.loads(config)
            name, path = entry["name"].strip(), entry["path"].strip()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        if name and path and "\0" not in path:
            yield name, path
