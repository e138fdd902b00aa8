-- Slots of workers on other machines. One is held until `expires_at` and lives on by being renewed; a slot of this
-- machine is held by a file's lock instead, and has no row here.
CREATE TABLE leases (
    slot TEXT PRIMARY KEY,
    session TEXT NOT NULL,
    account TEXT NOT NULL DEFAULT '',
    expires_at TEXT NOT NULL,
    files TEXT NOT NULL DEFAULT '{}'
);
