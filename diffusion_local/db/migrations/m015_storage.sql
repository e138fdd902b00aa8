-- Care for disk and clock.

-- Tries that ended with a fault of the storage that was this job's own, apart from `tries`.
ALTER TABLE jobs ADD COLUMN faults INTEGER NOT NULL DEFAULT 0;

-- The time of day (UTC) when retention last ran, and since when the clock is not trusted; empty: it is.
CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), at TEXT NOT NULL, doubted_at TEXT NOT NULL DEFAULT '');
INSERT INTO clock (id, at) SELECT 1, coalesce(max(at), '') FROM job_events;
