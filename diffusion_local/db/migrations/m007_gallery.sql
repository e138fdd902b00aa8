-- The gallery's full-text search over prompts, boards, and what filters go by.
-- `recipe_mark` is a function that `migrations/__init__.py` gives the connection.

-- The full-text index needs a number that stays; an implicit rowid does not survive VACUUM.
ALTER TABLE images ADD COLUMN number INTEGER;
ALTER TABLE images ADD COLUMN batch_id TEXT NOT NULL DEFAULT '';

-- Equal for equal recipes.
ALTER TABLE images ADD COLUMN mark TEXT NOT NULL DEFAULT '';

UPDATE images SET batch_id = coalesce((SELECT batch_id FROM jobs
    WHERE jobs.id = images.job_id), ''), mark = recipe_mark(params), number = rowid;

CREATE UNIQUE INDEX images_number ON images (number);
CREATE INDEX images_starred ON images (starred, created_at DESC, id DESC) WHERE starred = 1 AND trashed_at IS NULL;
CREATE INDEX images_by_model ON images (model, created_at DESC, id DESC) WHERE trashed_at IS NULL;
CREATE INDEX images_by_batch ON images (batch_id, created_at DESC, id DESC);
CREATE INDEX images_by_owner ON images (owner, created_at DESC, id DESC) WHERE trashed_at IS NULL;

CREATE INDEX images_by_shape ON images ((width > height) - (width < height), created_at DESC, id DESC)
    WHERE trashed_at IS NULL;

CREATE INDEX images_numbered ON images (created_at, number);
CREATE INDEX images_in_trash ON images (created_at DESC, id DESC) WHERE trashed_at IS NOT NULL;
CREATE INDEX images_by_mark ON images (mark) WHERE trashed_at IS NULL;

CREATE VIRTUAL TABLE images_text USING fts5(
    prompt, content='images', content_rowid='number', tokenize='unicode61 remove_diacritics 2', prefix='2 3'
);

INSERT INTO images_text (images_text) VALUES ('rebuild');

CREATE TRIGGER images_entered AFTER INSERT ON images BEGIN
    UPDATE images SET number = (SELECT coalesce(max(number), 0) + 1 FROM images),
            batch_id = coalesce((SELECT batch_id FROM jobs WHERE jobs.id = new.job_id), new.batch_id)
        WHERE id = new.id;
        INSERT INTO images_text (rowid, prompt) SELECT number, prompt FROM images WHERE id = new.id;
END;

CREATE TRIGGER images_left AFTER DELETE ON images BEGIN
    INSERT INTO images_text (images_text, rowid, prompt) VALUES ('delete', old.number, old.prompt);
        DELETE FROM board_images WHERE image_id = old.id;
END;

CREATE TABLE boards (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL
);

CREATE UNIQUE INDEX boards_named ON boards (owner, name);

CREATE TABLE board_images (
    board_id TEXT NOT NULL REFERENCES boards (id) ON DELETE CASCADE,
    image_id TEXT NOT NULL,
    at TEXT NOT NULL,
    shown INTEGER NOT NULL DEFAULT 1,  -- 0 while it is in the trash
    PRIMARY KEY (board_id, image_id)
) WITHOUT ROWID;

CREATE INDEX board_images_shown ON board_images (board_id, at DESC, image_id DESC) WHERE shown = 1;

CREATE TRIGGER images_hidden AFTER UPDATE OF trashed_at ON images BEGIN
    UPDATE board_images SET shown = new.trashed_at IS NULL WHERE image_id = new.id;
END;

CREATE INDEX board_images_of ON board_images (image_id);

CREATE TRIGGER boards_revision_insert AFTER INSERT ON boards BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER boards_revision_delete AFTER DELETE ON boards BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER board_images_revision_insert AFTER INSERT ON board_images BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER board_images_revision_delete AFTER DELETE ON board_images BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;

CREATE TRIGGER boards_revision_update AFTER UPDATE OF name ON boards BEGIN
    UPDATE queue SET revision = revision + 1 WHERE id = 1;
END;
