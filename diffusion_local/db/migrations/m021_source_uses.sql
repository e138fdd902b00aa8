-- Source pictures in options that name several: lists of records, in which each id is a text of 64 hexadecimal digits.

-- ``kind``: jobs or images, whose row ``user_id`` uses the source.
CREATE TABLE source_uses (
    source_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('jobs', 'images')),
    user_id TEXT NOT NULL,
    PRIMARY KEY (source_id, kind, user_id)
) WITHOUT ROWID;

CREATE INDEX source_uses_of ON source_uses (kind, user_id);

CREATE TRIGGER source_uses_job_insert AFTER INSERT ON jobs WHEN instr(new.params, '"image"') BEGIN
    INSERT OR IGNORE INTO source_uses (source_id, kind, user_id)
        SELECT value, 'jobs', new.id FROM json_tree(new.params)
        WHERE type = 'text' AND path <> '$' AND length(value) = 64 AND NOT value GLOB '*[^0-9a-f]*';
END;

CREATE TRIGGER source_uses_job_update AFTER UPDATE OF params ON jobs WHEN old.params IS NOT new.params BEGIN
    DELETE FROM source_uses WHERE kind = 'jobs' AND user_id = new.id;
    INSERT OR IGNORE INTO source_uses (source_id, kind, user_id)
        SELECT value, 'jobs', new.id FROM json_tree(new.params)
        WHERE type = 'text' AND path <> '$' AND length(value) = 64 AND NOT value GLOB '*[^0-9a-f]*';
END;

CREATE TRIGGER source_uses_job_delete AFTER DELETE ON jobs BEGIN
    DELETE FROM source_uses WHERE kind = 'jobs' AND user_id = old.id;
END;

CREATE TRIGGER source_uses_image_insert AFTER INSERT ON images WHEN instr(new.params, '"image"') BEGIN
    INSERT OR IGNORE INTO source_uses (source_id, kind, user_id)
        SELECT value, 'images', new.id FROM json_tree(new.params)
        WHERE type = 'text' AND path <> '$' AND length(value) = 64 AND NOT value GLOB '*[^0-9a-f]*';
END;

CREATE TRIGGER source_uses_image_update AFTER UPDATE OF params ON images WHEN old.params IS NOT new.params BEGIN
    DELETE FROM source_uses WHERE kind = 'images' AND user_id = new.id;
    INSERT OR IGNORE INTO source_uses (source_id, kind, user_id)
        SELECT value, 'images', new.id FROM json_tree(new.params)
        WHERE type = 'text' AND path <> '$' AND length(value) = 64 AND NOT value GLOB '*[^0-9a-f]*';
END;

CREATE TRIGGER source_uses_image_delete AFTER DELETE ON images BEGIN
    DELETE FROM source_uses WHERE kind = 'images' AND user_id = old.id;
END;
