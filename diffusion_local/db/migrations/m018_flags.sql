-- Why a picture is probably not what was wanted; its facts say the same.

ALTER TABLE images ADD COLUMN flag TEXT NOT NULL DEFAULT '';
CREATE INDEX images_flagged ON images (created_at DESC, id DESC) WHERE flag != '' AND trashed_at IS NULL;
