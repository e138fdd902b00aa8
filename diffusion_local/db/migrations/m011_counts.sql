-- Counts that are kept, not counted: what the page tells of a long queue costs what it costs of a short one.

CREATE TABLE job_counts (
    state TEXT NOT NULL,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    pixels INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (state, model, kind, pixels, steps)
) WITHOUT ROWID;

INSERT INTO job_counts
    SELECT state, model, kind, pixels, steps, count(*) FROM jobs GROUP BY state, model, kind, pixels, steps;

CREATE TRIGGER jobs_counted_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts VALUES (new.state, new.model, new.kind, new.pixels, new.steps, 1)
        ON CONFLICT (state, model, kind, pixels, steps) DO UPDATE SET jobs = jobs + 1;
END;

CREATE TRIGGER jobs_counted_delete AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE state = old.state AND model = old.model
        AND kind = old.kind AND pixels = old.pixels AND steps = old.steps;
END;

CREATE TRIGGER jobs_counted_update AFTER UPDATE OF state, model, kind, pixels, steps ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE state = old.state AND model = old.model
        AND kind = old.kind AND pixels = old.pixels AND steps = old.steps;
    INSERT INTO job_counts VALUES (new.state, new.model, new.kind, new.pixels, new.steps, 1)
        ON CONFLICT (state, model, kind, pixels, steps) DO UPDATE SET jobs = jobs + 1;
END;

-- Pictures by owner, without the trash.
CREATE TABLE image_counts (owner TEXT PRIMARY KEY, images INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO image_counts SELECT owner, count(*) FROM images WHERE trashed_at IS NULL GROUP BY owner;

CREATE TRIGGER images_counted_insert AFTER INSERT ON images BEGIN
    INSERT INTO image_counts SELECT new.owner, 1 WHERE new.trashed_at IS NULL
        ON CONFLICT (owner) DO UPDATE SET images = images + 1;
END;

CREATE TRIGGER images_counted_delete AFTER DELETE ON images BEGIN
    UPDATE image_counts SET images = images - 1 WHERE owner = old.owner AND old.trashed_at IS NULL;
END;

CREATE TRIGGER images_counted_update AFTER UPDATE OF owner, trashed_at ON images BEGIN
    UPDATE image_counts SET images = images - 1 WHERE owner = old.owner AND old.trashed_at IS NULL;
    INSERT INTO image_counts SELECT new.owner, 1 WHERE new.trashed_at IS NULL
        ON CONFLICT (owner) DO UPDATE SET images = images + 1;
END;
