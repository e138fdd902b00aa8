"""Counts that are kept, not counted: what the page tells of a long queue costs what it costs of a short one."""

#: What a job is counted by: its state, and what its time depends on (``estimates.Work``).
BY = "state, model, kind, pixels, steps"
JOB_CAME = f"""
    INSERT INTO job_counts VALUES (new.state, new.model, new.kind, new.pixels, new.steps, 1)
    ON CONFLICT ({BY}) DO UPDATE SET jobs = jobs + 1;
"""
JOB_LEFT = """
    UPDATE job_counts SET jobs = jobs - 1 WHERE state = old.state AND model = old.model
    AND kind = old.kind AND pixels = old.pixels AND steps = old.steps;
"""
IMAGE_CAME = """
    INSERT INTO image_counts SELECT new.owner, 1 WHERE new.trashed_at IS NULL
    ON CONFLICT (owner) DO UPDATE SET images = images + 1;
"""
IMAGE_LEFT = "UPDATE image_counts SET images = images - 1 WHERE owner = old.owner AND old.trashed_at IS NULL;"

#: Statements of migration m011.
COUNTS = (
    f"""
    CREATE TABLE job_counts (
        state TEXT NOT NULL,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,
        pixels INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        jobs INTEGER NOT NULL,
        PRIMARY KEY ({BY})
    ) WITHOUT ROWID
    """,
    f"INSERT INTO job_counts SELECT {BY}, count(*) FROM jobs GROUP BY {BY}",
    f"CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs BEGIN {JOB_CAME} END",
    f"CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs BEGIN {JOB_LEFT} END",
    f"CREATE TRIGGER jobs_counted_update AFTER UPDATE OF {BY} ON jobs BEGIN {JOB_LEFT} {JOB_CAME} END",
    # Pictures by owner, without the trash.
    "CREATE TABLE image_counts (owner TEXT PRIMARY KEY, images INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO image_counts SELECT owner, count(*) FROM images WHERE trashed_at IS NULL GROUP BY owner",
    f"CREATE TRIGGER images_counted_insert AFTER INSERT ON images BEGIN {IMAGE_CAME} END",
    f"CREATE TRIGGER images_counted_delete AFTER DELETE ON images BEGIN {IMAGE_LEFT} END",
    f"CREATE TRIGGER images_counted_update AFTER UPDATE OF owner, trashed_at ON images "
    f"BEGIN {IMAGE_LEFT} {IMAGE_CAME} END",
)
