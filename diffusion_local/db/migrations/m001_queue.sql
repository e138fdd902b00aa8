-- The queue: batches, jobs, their history, workers, and what holds for the whole queue.
-- Invariants are CHECKs. `job_events` and `queue.revision` are written by triggers, so that no code can forget them.

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL DEFAULT '',
    owner TEXT NOT NULL DEFAULT '',
    lane TEXT NOT NULL DEFAULT 'interactive' CHECK (lane IN ('interactive', 'batch')),
    count INTEGER NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1, 2)),  -- see store.jobs.PAUSED
    idempotency_key TEXT UNIQUE,
    request TEXT NOT NULL DEFAULT '',  -- digest of what came with the key
    created_at TEXT NOT NULL
);

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    batch_id TEXT NOT NULL REFERENCES batches (id),
    idx INTEGER NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    params TEXT NOT NULL,
    model TEXT NOT NULL,
    cost REAL NOT NULL,
    -- what claim_next orders and filters by; lane as a rank so that one index answers it
    lane INTEGER NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL DEFAULT 0,
    position INTEGER NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    not_before TEXT,
    -- the claim
    worker TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    step INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL DEFAULT '',
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    reported_at TEXT,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    error_kind TEXT,
    error_message TEXT,
    error_detail TEXT,
    note TEXT NOT NULL DEFAULT '',
    from_job TEXT,
    CHECK ((state = 'running') = (worker IS NOT NULL)),
    CHECK (cancel_requested = 0 OR state IN ('running', 'cancelled')),
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);

CREATE INDEX jobs_waiting ON jobs (lane, priority DESC, position) WHERE state = 'queued' AND held = 0;
CREATE INDEX jobs_queued ON jobs (lane, priority DESC, position, model, cost) WHERE state = 'queued';
CREATE INDEX jobs_work ON jobs (model, cost) WHERE state = 'queued';
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_ended ON jobs (finished_at DESC) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_by_model ON jobs (model, finished_at DESC) WHERE state = 'done';
CREATE INDEX jobs_by_batch ON jobs (batch_id, idx);
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_from ON jobs (from_job) WHERE from_job IS NOT NULL;
CREATE INDEX jobs_position ON jobs (position);

CREATE TABLE job_events (
    id INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    state TEXT NOT NULL,
    at TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT,
    note TEXT NOT NULL DEFAULT ''
);

CREATE INDEX job_events_by_job ON job_events (job_id, id);

CREATE TABLE workers (
    slot TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    device TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL,
    model TEXT NOT NULL DEFAULT '',
    started_at TEXT NOT NULL,
    seen_at TEXT NOT NULL
);

-- One row. `revision` grows with every visible change, so that a page can ask "is anything new?" with one look-up.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL DEFAULT 0,
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1, 2)),  -- by a person
    blocked TEXT NOT NULL DEFAULT ''  -- by the machine itself, and why
);

INSERT INTO queue (id) VALUES (1);

CREATE TRIGGER job_events_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO job_events (job_id, state, at, attempt, worker, note)
        VALUES (new.id, new.state, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), new.attempt, new.worker, new.note);
END;

CREATE TRIGGER job_events_update AFTER UPDATE OF state ON jobs WHEN old.state IS NOT new.state BEGIN
    INSERT INTO job_events (job_id, state, at, attempt, worker, note)
        VALUES (new.id, new.state, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), new.attempt, new.worker, new.note);
END;

CREATE TRIGGER jobs_revision_insert AFTER INSERT ON jobs BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER jobs_revision_update AFTER UPDATE ON jobs BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER jobs_revision_delete AFTER DELETE ON jobs BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER batches_revision_insert AFTER INSERT ON batches BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER batches_revision_update AFTER UPDATE ON batches BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER batches_revision_delete AFTER DELETE ON batches BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER workers_revision_insert AFTER INSERT ON workers BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER workers_revision_update AFTER UPDATE OF status, model, pid ON workers BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER queue_revision_update AFTER UPDATE OF paused, blocked ON queue BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
