"""What the queue by batches is read from: when a batch ended, and its jobs in the order in which they are listed."""

OPEN = "SELECT 1 FROM jobs INDEXED BY jobs_open WHERE batch_id = {batch} AND state IN ('queued', 'running')"

#: Ranks of states in a batch's list: what runs, what waits in the order of the line, what failed, then the rest.
RANKS = ("running", "queued", "failed", "done", "cancelled")
RANK = " ".join(f"WHEN '{state}' THEN {rank}" for rank, state in enumerate(RANKS))

#: Statements of migration m013.
GROUPS = (
    "ALTER TABLE batches ADD COLUMN ended_at TEXT",  # of its last job; null while one waits or runs
    "UPDATE batches SET ended_at = (SELECT max(finished_at) FROM jobs WHERE batch_id = batches.id) "
    f"WHERE NOT EXISTS ({OPEN.format(batch='batches.id')})",
    "CREATE INDEX batches_ended ON batches (ended_at DESC, id DESC) WHERE ended_at IS NOT NULL",
    f"""
    CREATE TRIGGER batches_end AFTER UPDATE OF state ON jobs
    WHEN new.finished_at IS NOT NULL AND NOT EXISTS ({OPEN.format(batch="new.batch_id")}) BEGIN
        UPDATE batches SET ended_at = new.finished_at WHERE id = new.batch_id;
    END
    """,
    # Columns, as an index over expressions could not be entered in the middle by a row value.
    f"ALTER TABLE jobs ADD COLUMN list_rank INTEGER AS (CASE state {RANK} END) VIRTUAL",
    "ALTER TABLE jobs ADD COLUMN list_priority INTEGER AS (iif(state = 'queued', -priority, 0)) VIRTUAL",
    "ALTER TABLE jobs ADD COLUMN list_place INTEGER AS (iif(state = 'queued', position, idx)) VIRTUAL",
    "CREATE INDEX jobs_listed ON jobs (batch_id, list_rank, list_priority, list_place, model)",
    "DROP INDEX jobs_of_batch",  # the same questions, answered by jobs_listed
    "DROP INDEX jobs_queued",
    "CREATE INDEX jobs_queued ON jobs (lane, priority DESC, position, model, kind, pixels, steps, batch_id, owner) "
    "WHERE state = 'queued'",
)
