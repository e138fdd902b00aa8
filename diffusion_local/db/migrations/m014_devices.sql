-- Browsers that an account has signed in by, as the digest of their cookie, and networks that it has signed in from.

CREATE TABLE devices (
    account TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    network TEXT NOT NULL,
    used_at TEXT NOT NULL,
    PRIMARY KEY (account, digest)
) WITHOUT ROWID;

CREATE INDEX failed_logins_at ON failed_logins (first_at);
