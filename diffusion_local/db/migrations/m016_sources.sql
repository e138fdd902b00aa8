-- Who added each source picture, and indexes by which their uses, and what an account has, are found.

-- The same pixels are kept once, and may have been added by several.
CREATE TABLE source_owners (
    source_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (source_id, owner)
) WITHOUT ROWID;

CREATE INDEX jobs_by_source ON jobs (json_extract(params, '$.source'))
    WHERE json_extract(params, '$.source') IS NOT NULL;

CREATE INDEX jobs_by_mask ON jobs (json_extract(params, '$.mask')) WHERE json_extract(params, '$.mask') IS NOT NULL;

CREATE INDEX images_by_source ON images (json_extract(params, '$.source'))
    WHERE json_extract(params, '$.source') IS NOT NULL;

CREATE INDEX images_by_mask ON images (json_extract(params, '$.mask'))
    WHERE json_extract(params, '$.mask') IS NOT NULL;

CREATE INDEX jobs_models_of_owner ON jobs (owner, model);
CREATE INDEX images_models_of_owner ON images (owner, model) WHERE trashed_at IS NULL;
