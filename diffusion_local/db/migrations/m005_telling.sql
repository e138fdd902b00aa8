-- Notifications: notices written by triggers, so in the transaction of what happened, and the log of their deliveries.
-- The machine's own rests.

CREATE INDEX jobs_open ON jobs (batch_id) WHERE state IN ('queued', 'running');

-- Why the machine rests from the batch lane (heat, another program), and when it goes to sleep or off.
ALTER TABLE queue ADD COLUMN resting TEXT NOT NULL DEFAULT '';
ALTER TABLE queue ADD COLUMN sleep_at TEXT NOT NULL DEFAULT '';

CREATE TRIGGER queue_revision_care AFTER UPDATE OF resting, sleep_at ON queue
WHEN old.resting != new.resting OR old.sleep_at != new.sleep_at BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TABLE notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL CHECK (
        event IN ('batch.started', 'batch.done', 'job.failed', 'queue.idle', 'queue.paused', 'test')
    ),
    batch_id TEXT NOT NULL DEFAULT '',
    job_id TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    at TEXT NOT NULL,
    told_at TEXT
);

CREATE INDEX notices_untold ON notices (id) WHERE told_at IS NULL;
CREATE INDEX notices_of_batch ON notices (batch_id, event);

-- Only a batch whose webhook asked for it gets a notice of its start.
ALTER TABLE batches ADD COLUMN prediction TEXT NOT NULL DEFAULT '';

CREATE TRIGGER notices_batch_started AFTER UPDATE OF state ON jobs
WHEN new.state = 'running' AND old.state = 'queued' AND EXISTS (
    SELECT 1 FROM batches WHERE id = new.batch_id AND prediction LIKE '%"start"%'
) AND NOT EXISTS (SELECT 1 FROM notices WHERE batch_id = new.batch_id AND event = 'batch.started') BEGIN
    INSERT INTO notices (event, batch_id, at)
        VALUES ('batch.started', new.batch_id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

CREATE TRIGGER notices_batch_done AFTER UPDATE OF state ON jobs
WHEN new.state IN ('done', 'failed', 'cancelled') AND old.state IN ('queued', 'running') AND NOT EXISTS (
    SELECT 1 FROM jobs WHERE batch_id = new.batch_id AND state IN ('queued', 'running')
) AND NOT EXISTS (SELECT 1 FROM notices WHERE batch_id = new.batch_id AND event = 'batch.done') BEGIN
    INSERT INTO notices (event, batch_id, at)
        VALUES ('batch.done', new.batch_id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

CREATE TRIGGER notices_job_failed AFTER UPDATE OF state ON jobs
WHEN new.state = 'failed' AND old.state = 'running' AND (
    SELECT count(*) FROM notices WHERE batch_id = new.batch_id AND event = 'job.failed'
) < 20 BEGIN
    INSERT INTO notices (event, batch_id, job_id, note, at)
        VALUES (
            'job.failed', new.batch_id, new.id, coalesce(new.error_kind, ''), strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
        );
END;

CREATE TRIGGER notices_queue_idle AFTER UPDATE OF state ON jobs
WHEN new.state IN ('done', 'failed', 'cancelled') AND old.state IN ('queued', 'running')
AND NOT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running')) BEGIN
    INSERT INTO notices (event, at) VALUES ('queue.idle', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

CREATE TRIGGER notices_queue_paused AFTER UPDATE OF paused, blocked, resting ON queue
WHEN (old.paused = 0 AND new.paused != 0) OR (old.blocked = '' AND new.blocked != '')
OR (old.resting = '' AND new.resting != '') BEGIN
    INSERT INTO notices (event, note, at) VALUES ('queue.paused', CASE
            WHEN old.blocked != new.blocked THEN new.blocked WHEN old.resting != new.resting THEN new.resting
            ELSE '' END, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

-- What is sent to whom. The row is the truth; a message of the chores' queue only says "look at it".
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY,
    notice INTEGER NOT NULL,
    event TEXT NOT NULL,
    receiver TEXT NOT NULL,  -- an address, or `hook:` and the setting that holds the command
    payload TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'sending', 'delivered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    tries_left INTEGER NOT NULL,
    status INTEGER,
    answer TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    tried_at TEXT,
    next_try_at TEXT,
    UNIQUE (notice, receiver),
    CHECK ((state = 'waiting') = (next_try_at IS NOT NULL))
);

CREATE INDEX deliveries_waiting ON deliveries (next_try_at) WHERE state = 'waiting';
