-- Which rung of the memory policy worked, and which did not, by model, kind of work, size and device.

CREATE TABLE fits (
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    device TEXT NOT NULL,
    worked TEXT NOT NULL DEFAULT '',
    peak_bytes INTEGER NOT NULL DEFAULT 0,
    failed TEXT NOT NULL DEFAULT '',
    free_bytes INTEGER NOT NULL DEFAULT 0,
    at TEXT NOT NULL,
    PRIMARY KEY (model, kind, width, height, device)
) WITHOUT ROWID;
