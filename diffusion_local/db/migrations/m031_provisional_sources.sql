-- The request that alone has added the picture for this owner, so that it is withdrawn if the request is refused.
ALTER TABLE source_owners ADD COLUMN request TEXT NOT NULL DEFAULT '';
