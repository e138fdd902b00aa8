-- The gallery.

CREATE TABLE images (
    id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,  -- one job, one picture: the last line of defence
    key TEXT NOT NULL UNIQUE,
    params TEXT NOT NULL,
    prompt TEXT NOT NULL,
    model TEXT NOT NULL,
    seed INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    seconds REAL NOT NULL DEFAULT 0,
    starred INTEGER NOT NULL DEFAULT 0,
    trashed_at TEXT,
    created_at TEXT NOT NULL
);

CREATE INDEX images_shown ON images (created_at DESC, id DESC) WHERE trashed_at IS NULL;
CREATE INDEX images_trashed ON images (trashed_at) WHERE trashed_at IS NOT NULL;

CREATE TRIGGER images_revision_insert AFTER INSERT ON images BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER images_revision_update AFTER UPDATE ON images BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER images_revision_delete AFTER DELETE ON images BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
