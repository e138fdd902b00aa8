-- Work overnight: times of batches, turns between owners, and what estimates learn from.

-- The times of a batch as a person wrote them (see when.py).
ALTER TABLE batches ADD COLUMN window TEXT NOT NULL DEFAULT '';
ALTER TABLE batches ADD COLUMN start_at TEXT;
ALTER TABLE batches ADD COLUMN finish_by TEXT;
ALTER TABLE batches ADD COLUMN webhook TEXT NOT NULL DEFAULT '';

-- The axes of a grid, as JSON (see lists/grid.py).
ALTER TABLE batches ADD COLUMN grid TEXT NOT NULL DEFAULT '';

-- The window of the batch lane.
ALTER TABLE queue ADD COLUMN window TEXT NOT NULL DEFAULT '';

-- The times at which batches may run, one row for each that differs. A job names its own (0: always), so that opening a
-- window changes no job. Whether a gate is open is told by the clock, not kept.
CREATE TABLE gates (
    id INTEGER PRIMARY KEY,
    window TEXT NOT NULL,
    start_at TEXT NOT NULL,
    UNIQUE (window, start_at)
);

ALTER TABLE jobs ADD COLUMN gate INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_of_batch ON jobs (batch_id, state, priority, position);
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'txt2img';
ALTER TABLE jobs ADD COLUMN pixels INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN steps INTEGER NOT NULL DEFAULT 1;

UPDATE jobs SET steps = json_extract(params, '$.steps'), pixels = json_extract(params, '$.width') *
    json_extract(params, '$.height');

-- What estimates learn from: measured by the worker (seconds), and what was estimated at the claim.
ALTER TABLE jobs ADD COLUMN run_seconds REAL;
ALTER TABLE jobs ADD COLUMN load_seconds REAL;
ALTER TABLE jobs ADD COLUMN expected_seconds REAL;
ALTER TABLE jobs ADD COLUMN rung TEXT NOT NULL DEFAULT '';

-- Pictures in one forward pass.
ALTER TABLE jobs ADD COLUMN together INTEGER NOT NULL DEFAULT 1;

-- `jobs_due` holds exactly the jobs that only a gate can still hold back.
DROP INDEX jobs_waiting;

CREATE INDEX jobs_due ON jobs (gate, lane, priority DESC, owner, model, position)
    WHERE state = 'queued' AND held = 0 AND not_before IS NULL;

CREATE INDEX jobs_later ON jobs (not_before) WHERE state = 'queued' AND not_before IS NOT NULL;
DROP INDEX jobs_work;
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (lane, priority DESC, position, model, kind, pixels, steps) WHERE state = 'queued';

CREATE TABLE turns (lane INTEGER PRIMARY KEY, virtual INTEGER NOT NULL, turn INTEGER NOT NULL, passed_over
    INTEGER NOT NULL);

CREATE TABLE shares (lane INTEGER NOT NULL, owner TEXT NOT NULL, finish INTEGER NOT NULL, turn INTEGER NOT NULL,
    PRIMARY KEY (lane, owner)) WITHOUT ROWID;

INSERT INTO turns SELECT value, 0, 0, 0 FROM json_each('[0, 1]');
DROP TRIGGER queue_revision_update;

CREATE TRIGGER queue_revision_update AFTER UPDATE OF paused, blocked, window ON queue BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
