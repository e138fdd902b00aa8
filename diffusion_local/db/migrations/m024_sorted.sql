-- The gallery in the order of its pictures' sizes.
CREATE INDEX images_by_pixels ON images ((width * height) DESC, created_at DESC, id DESC) WHERE trashed_at IS NULL;
