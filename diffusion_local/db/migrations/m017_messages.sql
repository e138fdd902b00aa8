-- Messages by id and parameters, as JSON, beside the English text.

ALTER TABLE jobs ADD COLUMN error_json TEXT;
ALTER TABLE jobs ADD COLUMN phase_json TEXT;
ALTER TABLE jobs ADD COLUMN note_json TEXT;
ALTER TABLE queue ADD COLUMN blocked_json TEXT;
ALTER TABLE queue ADD COLUMN resting_json TEXT;
ALTER TABLE downloads ADD COLUMN error_json TEXT;
ALTER TABLE job_events ADD COLUMN note_json TEXT;
DROP TRIGGER job_events_insert;
DROP TRIGGER job_events_update;

CREATE TRIGGER job_events_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO job_events (job_id, state, at, attempt, worker, note, note_json)
        VALUES (
            new.id, new.state, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), new.attempt, new.worker, new.note, new.note_json
        );
END;

CREATE TRIGGER job_events_update AFTER UPDATE OF state ON jobs WHEN old.state IS NOT new.state BEGIN
    INSERT INTO job_events (job_id, state, at, attempt, worker, note, note_json)
        VALUES (
            new.id, new.state, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), new.attempt, new.worker, new.note, new.note_json
        );
END;
