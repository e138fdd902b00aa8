"""Triggers that keep jobs' history, the ids of what was deleted, and the revision that grows with each change."""


def event_trigger(verb: str, notes: str = "note") -> str:
    """``notes``: the columns of the note that a job and its event have."""
    name = verb.split()[0].lower()
    values = ", ".join(f"new.{column}" for column in notes.split(", "))
    changed = "WHEN old.state IS NOT new.state" if verb != "INSERT" else ""
    return f"""
        CREATE TRIGGER job_events_{name} AFTER {verb} ON jobs {changed} BEGIN
            INSERT INTO job_events (job_id, state, at, attempt, worker, {notes})
            VALUES (new.id, new.state, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), new.attempt, new.worker, {values});
        END
    """


def tombstone_trigger(table: str, what: str) -> str:
    return f"""
        CREATE TRIGGER {table}_tombstone AFTER DELETE ON {table} BEGIN
            INSERT OR REPLACE INTO deleted (what, id, owner, at)
            VALUES ('{what}', old.id, old.owner, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
        END
    """


def revision_trigger(table: str, verb: str) -> str:
    name = verb.split()[0].lower()
    return f"""
        CREATE TRIGGER {table}_revision_{name} AFTER {verb} ON {table} BEGIN
            UPDATE queue SET revision = revision + 1 WHERE id = 1;
        END
    """
