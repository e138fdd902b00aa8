-- Whether a picture was in the first pass of its kind and size in the worker's process, which may capture CUDA graphs.
ALTER TABLE jobs ADD COLUMN warm_up INTEGER NOT NULL DEFAULT 0;
