-- Downloads of models. The progress changes no revision: whoever shows it asks for it.

CREATE TABLE downloads (
    id TEXT PRIMARY KEY,
    repo TEXT NOT NULL,
    revision TEXT NOT NULL DEFAULT 'main',
    file TEXT NOT NULL DEFAULT '',  -- one file of the repository; empty is the whole model
    folder TEXT NOT NULL,  -- below the home: models, loras, vae, upscalers, embeddings
    name TEXT NOT NULL,  -- of what comes to lie there
    owner TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    bytes_done INTEGER NOT NULL DEFAULT 0,
    bytes_total INTEGER NOT NULL DEFAULT 0,
    error_kind TEXT NOT NULL DEFAULT '',
    error_message TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    CHECK ((state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL))
);

-- Asking twice for what is on its way is one download.
CREATE UNIQUE INDEX downloads_open ON downloads (repo, revision, file, folder)
WHERE state IN ('waiting', 'running');

CREATE UNIQUE INDEX downloads_target ON downloads (folder, name) WHERE state IN ('waiting', 'running');

CREATE TRIGGER downloads_revision_insert AFTER INSERT ON downloads BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER downloads_revision_update AFTER UPDATE OF state, cancel_requested ON downloads BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER downloads_revision_delete AFTER DELETE ON downloads BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
