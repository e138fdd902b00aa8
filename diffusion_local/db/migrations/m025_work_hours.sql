-- How slots spent their time on the batch lane, by the hour (UTC, as 2026-11-30T09). `run_seconds`: making pictures;
-- `gap_seconds`: between `pictures` that followed each other undisturbed; `lost_seconds`: restarts of a killed worker
-- and the work that it lost, interactive jobs, rests.
CREATE TABLE work_hours (
    hour TEXT NOT NULL,
    slot TEXT NOT NULL,
    pictures INTEGER NOT NULL,
    run_seconds REAL NOT NULL,
    gap_seconds REAL NOT NULL,
    lost_seconds REAL NOT NULL,
    losses INTEGER NOT NULL,
    PRIMARY KEY (hour, slot)
);

-- Up to when a slot's time is accounted for (NULL while it is idle), the seconds and pictures of the running pass that
-- are not written to `work_hours` yet, and whether that pass was disturbed.
ALTER TABLE workers ADD COLUMN accounted_at TEXT;
ALTER TABLE workers ADD COLUMN open_seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN open_pictures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN disturbed INTEGER NOT NULL DEFAULT 0;

-- The estimated end of a list when its first pictures were done, when that was (UTC), and how many were done.
ALTER TABLE batches ADD COLUMN forecast_at TEXT;
ALTER TABLE batches ADD COLUMN forecast_end TEXT;
ALTER TABLE batches ADD COLUMN forecast_pictures INTEGER;
