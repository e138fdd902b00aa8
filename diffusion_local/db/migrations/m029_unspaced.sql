-- Search in scripts without spaces between words, and for signs such as emoji: an index of pairs of neighbouring
-- characters, in which a text of any length is found. Only texts that have a character from U+0E00 (Thai) on are in it.
CREATE VIEW images_text_pairs AS
SELECT id, number, (
    WITH RECURSIVE place (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM place WHERE at < length(whole))
    SELECT group_concat(hex(substr(whole, at, 2)), ' ') FROM place
    WHERE unicode(substr(whole, at, 1)) >= 3584 OR unicode(substr(whole, at + 1, 1)) >= 3584
) AS pairs
FROM (
    SELECT id, number, lower(prompt || char(10) || caption) AS whole FROM images
    WHERE prompt || caption GLOB '*[' || char(3584) || '-' || char(1114111) || ']*'
);

-- A pair is the hexadecimal text of its bytes; the prefix of 6 digits is a single character.
CREATE VIRTUAL TABLE images_text_unspaced USING fts5(
    pairs, content='images_text_pairs', content_rowid='number', tokenize='ascii', prefix='6', detail=none, columnsize=0
);

INSERT INTO images_text_unspaced (images_text_unspaced) VALUES ('rebuild');

DROP TRIGGER images_entered;

CREATE TRIGGER images_entered AFTER INSERT ON images BEGIN
    UPDATE images SET number = (SELECT coalesce(max(number), 0) + 1 FROM images),
            batch_id = coalesce((SELECT batch_id FROM jobs WHERE jobs.id = new.job_id), new.batch_id)
        WHERE id = new.id;
    INSERT INTO images_text (rowid, prompt, caption) SELECT number, prompt, caption FROM images WHERE id = new.id;
    INSERT INTO images_text_unspaced (rowid, pairs) SELECT number, pairs FROM images_text_pairs WHERE id = new.id;
END;

CREATE TRIGGER images_text_left BEFORE DELETE ON images BEGIN
    INSERT INTO images_text_unspaced (images_text_unspaced, rowid, pairs)
        SELECT 'delete', number, pairs FROM images_text_pairs WHERE id = old.id;
END;
