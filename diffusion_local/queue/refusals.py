"""Jobs that failed on a slot for its machine's reasons (memory, a missing file, a lost device) and wait for another.

Each slot is tried once, and MOST_SLOTS of them at most. The rows live as long as their job.
"""

from diffusion_local.db.database import Database, Transaction

MOST_SLOTS = 3


def slots_that_refused(db: Transaction, job_id: str) -> list[str]:
    found = db.execute("SELECT slot FROM refusals WHERE job_id = ? ORDER BY slot", [job_id]).fetchall()
    return [str(slot) for (slot,) in found]


def note_refusal(db: Transaction, job_id: str, slot: str, kind: str) -> None:
    db.upsert("refusals", {"job_id": job_id, "slot": slot, "kind": kind}, key=("job_id", "slot"))


class RefusalStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting_for_others(self, slot: str) -> dict[str, list[str]]:
        """Queued jobs that a slot refused, each with all slots that did."""
        with self._database.read() as db:
            query = (
                "SELECT job_id FROM refusals JOIN jobs ON jobs.id = refusals.job_id "
                "WHERE refusals.slot = ? AND jobs.state = 'queued'"
            )
            return {str(job): slots_that_refused(db, job) for (job,) in db.execute(query, [slot]).fetchall()}

    def of_job(self, job_id: str) -> list[str]:
        with self._database.read() as db:
            return slots_that_refused(db, job_id)
