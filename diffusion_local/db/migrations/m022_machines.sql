-- Machines whose workers joined from elsewhere: their settings, and the credential and program of their last start.
CREATE TABLE machines (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'paused')),
    hours TEXT NOT NULL DEFAULT '',
    gpu_share TEXT NOT NULL DEFAULT 'ignore' CHECK (gpu_share IN ('ignore', 'wait')),
    account TEXT NOT NULL DEFAULT '',
    token TEXT NOT NULL DEFAULT '',
    version TEXT NOT NULL DEFAULT '',
    protocol INTEGER NOT NULL DEFAULT 0,
    joined_at TEXT NOT NULL
);

-- Pairing codes that wait to be used; `code_key` is the stretched code (see accounts.pairings).
CREATE TABLE pairings (
    code_key TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    wrong_tries INTEGER NOT NULL DEFAULT 0
);

-- Finished pictures of each slot by the hour (UTC, as 2026-11-30T09).
CREATE TABLE slot_pictures (
    slot TEXT NOT NULL,
    hour TEXT NOT NULL,
    pictures INTEGER NOT NULL,
    PRIMARY KEY (slot, hour)
);

-- Jobs that could not be made on a slot for its machine's reasons, and wait for another one.
CREATE TABLE refusals (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    slot TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (job_id, slot)
);

-- Condition of the worker's device, and a problem of the worker that people should know.
ALTER TABLE leases ADD COLUMN temperature INTEGER;
ALTER TABLE leases ADD COLUMN shared_at TEXT;
ALTER TABLE leases ADD COLUMN problem TEXT NOT NULL DEFAULT '';
-- The session that was ended because its worker made no progress.
ALTER TABLE leases ADD COLUMN hung TEXT NOT NULL DEFAULT '';

CREATE TRIGGER machines_seen AFTER UPDATE ON machines BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
