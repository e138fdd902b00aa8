-- GPUs of idle workers that others use for a picture. `state`: asked for, lent, used, or recalled by its own
-- worker. The borrower keeps a loan alive until `expires_at`; a recalled one ends then at the latest.
CREATE TABLE loans (
    slot TEXT PRIMARY KEY,
    borrower TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('asked', 'lent', 'used', 'recalled')),
    expires_at TEXT NOT NULL
);
