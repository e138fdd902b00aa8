-- What PostgreSQL needs beside the translated migrations (see translation.py): SQLite's functions under their names,
-- and, below, texts of its own for single statements of the migrations.

CREATE FUNCTION utc_now() RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;

-- A list of ids, bound as one JSON array.
CREATE FUNCTION json_each(list text, OUT value text) RETURNS SETOF text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT json_array_elements_text(list::json) $$;

-- `path` is '$.name'.
CREATE FUNCTION json_extract(body text, path text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT body::json ->> substr(path, 3) $$;

CREATE FUNCTION julianday(moment text) RETURNS double precision LANGUAGE sql STABLE STRICT AS
$$ SELECT extract(epoch FROM moment::timestamptz)::double precision / 86400 + 2440587.5 $$;

CREATE FUNCTION ascii_lower(given text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT lower(given COLLATE "C") $$;

CREATE FUNCTION instr(given text, part text) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT strpos(given, part)::bigint $$;

CREATE FUNCTION iif(condition boolean, yes bigint, no bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN condition THEN yes ELSE no END $$;

CREATE FUNCTION max(one bigint, other bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT greatest(one, other) $$;

CREATE FUNCTION min(one bigint, other bigint) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT least(one, other) $$;

-- Texts of 64 hexadecimal digits within the lists and records of an object, not among its own fields.
CREATE FUNCTION nested_ids(body text) RETURNS SETOF text LANGUAGE sql IMMUTABLE STRICT AS $$
    WITH RECURSIVE tree (value, depth) AS (
        SELECT body::json, 0 UNION ALL
        SELECT child.value, depth + 1 FROM tree CROSS JOIN LATERAL (
            SELECT value FROM pg_catalog.json_each(CASE json_typeof(tree.value) WHEN 'object' THEN tree.value ELSE '{}' END)
            UNION ALL
            SELECT value FROM json_array_elements(CASE json_typeof(tree.value) WHEN 'array' THEN tree.value ELSE '[]' END)
        ) AS child
    )
    SELECT DISTINCT substr(value::text, 2, 64) FROM tree WHERE depth > 1 AND value::text ~ '^"[0-9a-f]{64}"$'
$$;

-- Truth is a number in SQLite.
CREATE FUNCTION truth_minus(one boolean, other boolean) RETURNS integer LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT one::integer - other::integer $$;

CREATE OPERATOR - (LEFTARG = boolean, RIGHTARG = boolean, FUNCTION = truth_minus);

-- The last write transaction of each connection, by which a COMMIT without an answer is looked up. (A transaction's own
-- number would not do: after a crash the server may give it to another one.)
CREATE TABLE last_writes (session text PRIMARY KEY, number bigint NOT NULL, at text NOT NULL);

CREATE FUNCTION begin_write(lock_class integer, lock integer, writer text, write bigint) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN
    PERFORM pg_advisory_xact_lock(lock_class, lock);
    INSERT INTO last_writes VALUES (writer, write, utc_now())
        ON CONFLICT (session) DO UPDATE SET number = excluded.number, at = excluded.at;
END $$;

-- instead of m004_overnight.turns
CREATE TABLE IF NOT EXISTS turns (
    lane bigint PRIMARY KEY, virtual bigint NOT NULL, turn bigint NOT NULL, passed_over bigint NOT NULL
);
INSERT INTO turns VALUES (0, 0, 0, 0), (1, 0, 0, 0) ON CONFLICT DO NOTHING

-- instead of m005_telling.notices_batch_done
CREATE FUNCTION notices_batch_done() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO notices (event, batch_id, at)
        SELECT DISTINCT 'batch.done', later.batch_id, utc_now() FROM later JOIN before ON before.id = later.id
        WHERE later.state IN ('done', 'failed', 'cancelled') AND before.state IN ('queued', 'running')
        AND NOT EXISTS (
            SELECT 1 FROM jobs WHERE jobs.batch_id = later.batch_id AND jobs.state IN ('queued', 'running')
        ) AND NOT EXISTS (
            SELECT 1 FROM notices AS told WHERE told.batch_id = later.batch_id AND told.event = 'batch.done'
        );
    RETURN NULL;
END $code$;
CREATE TRIGGER notices_batch_done AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION notices_batch_done();

-- instead of m005_telling.notices_queue_idle
CREATE FUNCTION notices_queue_idle() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    IF EXISTS (
        SELECT 1 FROM later JOIN before ON before.id = later.id
        WHERE later.state IN ('done', 'failed', 'cancelled') AND before.state IN ('queued', 'running')
    ) AND NOT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running')) THEN
        INSERT INTO notices (event, at) VALUES ('queue.idle', utc_now());
    END IF;
    RETURN NULL;
END $code$;
CREATE TRIGGER notices_queue_idle AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION notices_queue_idle();

-- instead of m006_accounts.jobs_used
CREATE FUNCTION jobs_used() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO usage (owner, day, pictures)
        SELECT owner, substr(created_at, 1, 10), count(*) FROM later WHERE owner != '' GROUP BY 1, 2
        ON CONFLICT (owner, day) DO UPDATE SET pictures = usage.pictures + excluded.pictures;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_used AFTER INSERT ON jobs REFERENCING NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_used();

-- instead of m006_accounts.jobs_not_used
CREATE FUNCTION jobs_not_used() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE usage SET pictures = greatest(0, usage.pictures - given.pictures) FROM (
        SELECT later.owner, substr(later.created_at, 1, 10) AS day, count(*) AS pictures
        FROM later JOIN before ON before.id = later.id
        WHERE later.owner != '' AND later.state = 'cancelled' AND before.state != 'cancelled' AND later.attempt = 0
        GROUP BY 1, 2
    ) AS given WHERE usage.owner = given.owner AND usage.day = given.day;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_not_used AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_not_used();

-- instead of m007_gallery.images_text
CREATE TABLE IF NOT EXISTS images_text (number bigint PRIMARY KEY, words tsvector NOT NULL);
CREATE INDEX IF NOT EXISTS images_text_words ON images_text USING gin (words)

-- instead of m007_gallery.images_entered
CREATE FUNCTION images_entered() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE images SET number = (SELECT coalesce(max(number), 0) + 1 FROM images),
        batch_id = coalesce((SELECT batch_id FROM jobs WHERE jobs.id = new.job_id), new.batch_id)
        WHERE id = new.id;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_entered AFTER INSERT ON images FOR EACH ROW EXECUTE FUNCTION images_entered();

-- instead of m007_gallery.images_left
CREATE FUNCTION images_left() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    DELETE FROM images_text WHERE number = old.number;
    DELETE FROM board_images WHERE image_id = old.id;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_left AFTER DELETE ON images FOR EACH ROW EXECUTE FUNCTION images_left();

-- instead of m007_gallery.images_hidden
CREATE FUNCTION images_hidden() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE board_images SET shown = (new.trashed_at IS NULL)::integer WHERE image_id = new.id;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_hidden AFTER UPDATE OF trashed_at ON images FOR EACH ROW EXECUTE FUNCTION images_hidden();

-- instead of m009_tombstones.jobs_tombstone
CREATE FUNCTION jobs_tombstone() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO deleted (what, id, owner, at) VALUES ('job', old.id, old.owner, utc_now())
        ON CONFLICT (what, id) DO UPDATE SET owner = excluded.owner, at = excluded.at;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_tombstone AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_tombstone();

-- instead of m009_tombstones.batches_tombstone
CREATE FUNCTION batches_tombstone() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO deleted (what, id, owner, at) VALUES ('batch', old.id, old.owner, utc_now())
        ON CONFLICT (what, id) DO UPDATE SET owner = excluded.owner, at = excluded.at;
    RETURN NULL;
END $code$;
CREATE TRIGGER batches_tombstone AFTER DELETE ON batches FOR EACH ROW EXECUTE FUNCTION batches_tombstone();

-- instead of m009_tombstones.images_tombstone
CREATE FUNCTION images_tombstone() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO deleted (what, id, owner, at) VALUES ('picture', old.id, old.owner, utc_now())
        ON CONFLICT (what, id) DO UPDATE SET owner = excluded.owner, at = excluded.at;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_tombstone AFTER DELETE ON images FOR EACH ROW EXECUTE FUNCTION images_tombstone();

-- instead of m011_counts.jobs_counted_insert
CREATE FUNCTION jobs_counted_insert() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO job_counts SELECT state, model, kind, pixels, steps, count(*) FROM later GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT (state, model, kind, pixels, steps) DO UPDATE SET jobs = job_counts.jobs + excluded.jobs;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs REFERENCING NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_counted_insert();

-- instead of m011_counts.jobs_counted_delete
CREATE FUNCTION jobs_counted_delete() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE job_counts AS c SET jobs = c.jobs - gone.jobs FROM (
        SELECT state, model, kind, pixels, steps, count(*) AS jobs FROM before GROUP BY 1, 2, 3, 4, 5
    ) AS gone WHERE c.state = gone.state AND c.model = gone.model AND c.kind = gone.kind
        AND c.pixels = gone.pixels AND c.steps = gone.steps;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_counted_delete();

-- instead of m011_counts.jobs_counted_update
CREATE FUNCTION jobs_counted_update() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO job_counts SELECT state, model, kind, pixels, steps, sum(jobs) FROM (
            SELECT state, model, kind, pixels, steps, -1 AS jobs FROM before
            UNION ALL SELECT state, model, kind, pixels, steps, 1 FROM later
        ) AS moved GROUP BY 1, 2, 3, 4, 5 HAVING sum(jobs) != 0
        ON CONFLICT (state, model, kind, pixels, steps) DO UPDATE SET jobs = job_counts.jobs + excluded.jobs;
    RETURN NULL;
END $code$;
CREATE TRIGGER jobs_counted_update AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION jobs_counted_update();

-- instead of m011_counts.images_counted_insert
CREATE FUNCTION images_counted_insert() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    INSERT INTO image_counts SELECT new.owner, 1 WHERE new.trashed_at IS NULL
        ON CONFLICT (owner) DO UPDATE SET images = image_counts.images + 1;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_counted_insert AFTER INSERT ON images FOR EACH ROW EXECUTE FUNCTION images_counted_insert();

-- instead of m011_counts.images_counted_update
CREATE FUNCTION images_counted_update() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE image_counts SET images = images - 1 WHERE owner = old.owner AND old.trashed_at IS NULL;
    INSERT INTO image_counts SELECT new.owner, 1 WHERE new.trashed_at IS NULL
        ON CONFLICT (owner) DO UPDATE SET images = image_counts.images + 1;
    RETURN NULL;
END $code$;
CREATE TRIGGER images_counted_update AFTER UPDATE OF owner, trashed_at ON images
    FOR EACH ROW EXECUTE FUNCTION images_counted_update();

-- instead of m013_groups.batches_end
CREATE FUNCTION batches_end() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    UPDATE batches SET ended_at = ended.at FROM (
        SELECT later.batch_id, max(later.finished_at) AS at FROM later JOIN before ON before.id = later.id
        WHERE later.state != before.state AND later.finished_at IS NOT NULL GROUP BY 1
    ) AS ended WHERE batches.id = ended.batch_id AND NOT EXISTS (
        SELECT 1 FROM jobs WHERE jobs.batch_id = batches.id AND jobs.state IN ('queued', 'running')
    );
    RETURN NULL;
END $code$;
CREATE TRIGGER batches_end AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS later
    FOR EACH STATEMENT EXECUTE FUNCTION batches_end();

-- instead of m007_gallery.images_by_shape
CREATE INDEX images_by_shape ON images (((width > height) - (width < height)), created_at DESC, id DESC)
    WHERE trashed_at IS NULL

-- instead of m021_source_uses.source_uses_job_insert
CREATE FUNCTION source_uses_job_insert() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    IF strpos(new.params, '"image"') > 0 THEN
        INSERT INTO source_uses SELECT id, 'jobs', new.id FROM nested_ids(new.params) AS id ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $code$;
CREATE TRIGGER source_uses_job_insert AFTER INSERT ON jobs
    FOR EACH ROW EXECUTE FUNCTION source_uses_job_insert();

-- instead of m021_source_uses.source_uses_job_update
CREATE FUNCTION source_uses_job_update() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    IF old.params != new.params THEN
        DELETE FROM source_uses WHERE kind = 'jobs' AND user_id = new.id;
        INSERT INTO source_uses SELECT id, 'jobs', new.id FROM nested_ids(new.params) AS id ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $code$;
CREATE TRIGGER source_uses_job_update AFTER UPDATE OF params ON jobs
    FOR EACH ROW EXECUTE FUNCTION source_uses_job_update();

-- instead of m021_source_uses.source_uses_image_insert
CREATE FUNCTION source_uses_image_insert() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    IF strpos(new.params, '"image"') > 0 THEN
        INSERT INTO source_uses SELECT id, 'images', new.id FROM nested_ids(new.params) AS id ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $code$;
CREATE TRIGGER source_uses_image_insert AFTER INSERT ON images
    FOR EACH ROW EXECUTE FUNCTION source_uses_image_insert();

-- instead of m021_source_uses.source_uses_image_update
CREATE FUNCTION source_uses_image_update() RETURNS trigger LANGUAGE plpgsql AS $code$ BEGIN
    IF old.params != new.params THEN
        DELETE FROM source_uses WHERE kind = 'images' AND user_id = new.id;
        INSERT INTO source_uses SELECT id, 'images', new.id FROM nested_ids(new.params) AS id ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $code$;
CREATE TRIGGER source_uses_image_update AFTER UPDATE OF params ON images
    FOR EACH ROW EXECUTE FUNCTION source_uses_image_update();

-- instead of m027_captions.images_text
SELECT 1;

-- instead of m027_captions.images_entered
SELECT 1;

-- instead of m027_captions.images_left
SELECT 1;

-- instead of m029_unspaced.images_text_pairs
SELECT 1;

-- instead of m029_unspaced.images_text_unspaced
SELECT 1;

-- instead of m029_unspaced.images_entered
SELECT 1;

-- instead of m029_unspaced.images_text_left
SELECT 1;

-- instead of m032_pairs_on_server.images_text_unspaced
UPDATE images_text SET words = words || (
    SELECT CAST(coalesce(string_agg(DISTINCT '''=' || encode(convert_to(pair, 'UTF8'), 'hex') || '''', ' '), '') AS tsvector)
    FROM (SELECT substr(whole, at, 2) FROM generate_series(1, length(whole)) AS at) AS pairs (pair)
    WHERE ascii(pair) >= 3584 OR ascii(substr(pair, 2)) >= 3584
)
FROM (SELECT number, ascii_lower(prompt || chr(10) || caption || chr(10)) AS whole FROM images) AS texts
WHERE texts.number = images_text.number AND octet_length(whole) > length(whole);
