-- Accounts: who may sign in, tokens, sessions, failed sign-ins, and what was used of a day's allowance.
-- Secrets are kept as digests only: passwords by argon2id, tokens and session ids (256 random bits each) by SHA-256.

CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('admin', 'user', 'viewer')),
    password TEXT NOT NULL,
    -- limits of this account alone; null takes the settings' ones, 0 is without a limit
    max_queued INTEGER,
    max_per_day INTEGER,
    max_pixels INTEGER,
    created_at TEXT NOT NULL
);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at TEXT NOT NULL,
    used_at TEXT
);

CREATE INDEX tokens_by_account ON tokens (account);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    digest TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    created_at TEXT NOT NULL,
    used_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
);

CREATE INDEX sessions_by_account ON sessions (account);

-- Failed sign-ins since `first_at` by address, by account, and by both.
CREATE TABLE failed_logins (
    who TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    first_at REAL NOT NULL  -- seconds since 1970
) WITHOUT ROWID;

-- Deleting ended jobs from the list gives nothing back, cancelling what never ran does. A day is a day in UTC.
CREATE TABLE usage (
    owner TEXT NOT NULL,
    day TEXT NOT NULL,
    pictures INTEGER NOT NULL,
    PRIMARY KEY (owner, day)
) WITHOUT ROWID;

CREATE TRIGGER jobs_used AFTER INSERT ON jobs WHEN new.owner != '' BEGIN
    INSERT INTO usage (owner, day, pictures) VALUES (new.owner, substr(new.created_at, 1, 10), 1)
        ON CONFLICT (owner, day) DO UPDATE SET pictures = pictures + 1;
END;

CREATE TRIGGER jobs_not_used AFTER UPDATE OF state ON jobs
WHEN new.owner != '' AND new.state = 'cancelled' AND new.attempt = 0 BEGIN
    UPDATE usage SET pictures = max(0, pictures - 1) WHERE owner = new.owner AND day = substr(new.created_at, 1, 10);
END;

CREATE INDEX jobs_queued_by_owner ON jobs (owner) WHERE state = 'queued';
CREATE INDEX jobs_by_owner ON jobs (owner, id);
ALTER TABLE images ADD COLUMN owner TEXT NOT NULL DEFAULT '';
UPDATE images SET owner = coalesce((SELECT owner FROM jobs WHERE jobs.id = images.job_id), '');
