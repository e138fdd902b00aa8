-- SHA-256 that the file of a URL must have, and the one that it has once it is downloaded.
ALTER TABLE downloads ADD COLUMN digest TEXT NOT NULL DEFAULT '';
