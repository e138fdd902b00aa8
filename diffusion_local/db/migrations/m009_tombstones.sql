-- Ids of what was deleted, so that the API can answer 410 Gone instead of 404.

CREATE TABLE deleted (
    what TEXT NOT NULL,  -- job, batch or picture
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (what, id)
) WITHOUT ROWID;

CREATE INDEX deleted_at ON deleted (at);

CREATE TRIGGER jobs_tombstone AFTER DELETE ON jobs BEGIN
    INSERT OR REPLACE INTO deleted (what, id, owner, at)
        VALUES ('job', old.id, old.owner, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

CREATE TRIGGER batches_tombstone AFTER DELETE ON batches BEGIN
    INSERT OR REPLACE INTO deleted (what, id, owner, at)
        VALUES ('batch', old.id, old.owner, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;

CREATE TRIGGER images_tombstone AFTER DELETE ON images BEGIN
    INSERT OR REPLACE INTO deleted (what, id, owner, at)
        VALUES ('picture', old.id, old.owner, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;
