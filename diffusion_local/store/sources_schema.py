"""Tables of source pictures: who added each, and indexes by which their uses, and what an account has, are found."""


def used(table: str, field: str) -> str:
    """An index of the rows of ``table`` whose recipe names a source picture as ``field``."""
    named = f"json_extract(params, '$.{field}')"
    return f"CREATE INDEX {table}_by_{field} ON {table} ({named}) WHERE {named} IS NOT NULL"


#: Statements of migration m016.
SOURCES = (
    # The same pixels are kept once, and may have been added by several.
    """
    CREATE TABLE source_owners (
        source_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        PRIMARY KEY (source_id, owner)
    ) WITHOUT ROWID
    """,
    *(used(table, field) for table in ("jobs", "images") for field in ("source", "mask")),
    "CREATE INDEX jobs_models_of_owner ON jobs (owner, model)",
    "CREATE INDEX images_models_of_owner ON images (owner, model) WHERE trashed_at IS NULL",
)
