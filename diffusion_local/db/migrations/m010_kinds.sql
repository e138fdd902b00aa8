-- How a picture was made beside its params: versions, device, hashes of files.

ALTER TABLE images ADD COLUMN facts TEXT NOT NULL DEFAULT '{}';
