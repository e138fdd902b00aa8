-- Refusals are looked up by slot with each claim, and are kept only while their job waits or runs: so a claim costs the
-- same however many jobs are queued or were refused.
CREATE INDEX refusals_by_slot ON refusals (slot);

DELETE FROM refusals WHERE job_id IN (SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled'));

CREATE TRIGGER refusals_end AFTER UPDATE OF state ON jobs WHEN new.state IN ('done', 'failed', 'cancelled') BEGIN
    DELETE FROM refusals WHERE job_id = new.id;
END;
