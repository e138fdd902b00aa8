-- What a worker's device has room for: how a model would be held is told before its first picture.

ALTER TABLE workers ADD COLUMN type TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN bf16 INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN free_bytes INTEGER NOT NULL DEFAULT 0;
