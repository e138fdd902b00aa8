-- The queue by batches: when a batch ended, and its jobs in the order in which they are listed.

-- The end of its last job; null while one waits or runs.
ALTER TABLE batches ADD COLUMN ended_at TEXT;

UPDATE batches SET ended_at = (SELECT max(finished_at) FROM jobs WHERE batch_id = batches.id) WHERE NOT EXISTS (
    SELECT 1 FROM jobs INDEXED BY jobs_open WHERE batch_id = batches.id AND state IN ('queued', 'running')
);

CREATE INDEX batches_ended ON batches (ended_at DESC, id DESC) WHERE ended_at IS NOT NULL;

CREATE TRIGGER batches_end AFTER UPDATE OF state ON jobs
WHEN new.finished_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM jobs INDEXED BY jobs_open WHERE batch_id = new.batch_id AND state IN ('queued', 'running')
) BEGIN
    UPDATE batches SET ended_at = new.finished_at WHERE id = new.batch_id;
END;

-- Columns, as an index over expressions could not be entered in the middle by a row value.
ALTER TABLE jobs ADD COLUMN list_rank INTEGER
    AS (
        CASE state
            WHEN 'running' THEN 0 WHEN 'queued' THEN 1 WHEN 'failed' THEN 2 WHEN 'done' THEN 3 WHEN 'cancelled' THEN 4
        END
    ) VIRTUAL;

ALTER TABLE jobs ADD COLUMN list_priority INTEGER AS (iif(state = 'queued', -priority, 0)) VIRTUAL;
ALTER TABLE jobs ADD COLUMN list_place INTEGER AS (iif(state = 'queued', position, idx)) VIRTUAL;
CREATE INDEX jobs_listed ON jobs (batch_id, list_rank, list_priority, list_place, model);

-- The same questions are answered by jobs_listed.
DROP INDEX jobs_of_batch;
DROP INDEX jobs_queued;

CREATE INDEX jobs_queued ON jobs (lane, priority DESC, position, model, kind, pixels, steps, batch_id, owner)
    WHERE state = 'queued';
