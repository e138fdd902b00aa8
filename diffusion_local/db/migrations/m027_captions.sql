-- Captions: what a model said that a picture shows. They are found by search as prompts are.
ALTER TABLE images ADD COLUMN caption TEXT NOT NULL DEFAULT '';

DROP TRIGGER images_entered;

DROP TRIGGER images_left;

DROP TABLE images_text;

CREATE VIRTUAL TABLE images_text USING fts5(
    prompt, caption, content='images', content_rowid='number', tokenize='unicode61 remove_diacritics 2', prefix='2 3'
);

INSERT INTO images_text (images_text) VALUES ('rebuild');

CREATE TRIGGER images_entered AFTER INSERT ON images BEGIN
    UPDATE images SET number = (SELECT coalesce(max(number), 0) + 1 FROM images),
            batch_id = coalesce((SELECT batch_id FROM jobs WHERE jobs.id = new.job_id), new.batch_id)
        WHERE id = new.id;
    INSERT INTO images_text (rowid, prompt, caption) SELECT number, prompt, caption FROM images WHERE id = new.id;
END;

CREATE TRIGGER images_left AFTER DELETE ON images BEGIN
    INSERT INTO images_text (images_text, rowid, prompt, caption)
        VALUES ('delete', old.number, old.prompt, old.caption);
    DELETE FROM board_images WHERE image_id = old.id;
END;

-- Answers of the models that look at pictures, by task, model and picture. `answer` is NULL while a process is at work,
-- which renews `at` (UTC); one that stopped doing so has died.
CREATE TABLE looks (
    key TEXT PRIMARY KEY,
    answer TEXT,
    at TEXT NOT NULL
);

CREATE INDEX looks_by_time ON looks (at);
