-- The graph of nodes that a batch was submitted as, where a client speaks in graphs: JSON with the client's own ids.

CREATE TABLE graphs (
    batch_id TEXT PRIMARY KEY REFERENCES batches (id) ON DELETE CASCADE,
    owner TEXT NOT NULL,
    graph TEXT NOT NULL
);
CREATE INDEX graphs_by_owner ON graphs (owner, batch_id DESC);
