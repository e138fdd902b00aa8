"""Which queued jobs a worker may claim: those it can make, and those that fit into one pass.

A job that failed on a slot because of its machine (memory, a missing file, a lost device) waits for another slot. Each
slot tries once, at most MOST_SLOTS slots try. The refusals are deleted when the job ends.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from diffusion_local.db import rows
from diffusion_local.db.database import Database, Transaction
from diffusion_local.domain import Claim, Job, Lane, utc_text
from diffusion_local.errors import LostClaim
from diffusion_local.options.types import Kind
from diffusion_local.queue import work_hours
from diffusion_local.queue.order import CLEAR_DELAYS, RETRY_DUE, QueueOrder

JOB_BY_ID = "SELECT * FROM jobs WHERE id = ?"
#: Params that may differ within a pass, with the values that replace them when the rest is compared.
FREE_IN_PASS: dict[str, Any] = {"prompt": "", "negative": "", "seed": 0}
HOLDS_CLAIM = "AND worker = :worker AND attempt = :attempt"
MOST_SLOTS = 3
#: Longest delay before a retry; see FIRST_BACKOFF in the runner.
MAX_DELAY = timedelta(minutes=5)


class Able(Protocol):
    """Which jobs a worker can make."""

    def job(self, job: Job, refused: Collection[str]) -> bool:
        """Whether the worker can make a job. ``refused``: slots that could not."""
        ...

    def model(self, runs_on: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ahead:
    """A claim together with the end of another job. ``loaded``: the model in the worker's memory; ``able``: which jobs
    it can make, None for all.
    """

    loaded: str
    able: Able | None = None


@dataclass(frozen=True, slots=True)
class SuitsOf:
    """Adapts ``Able`` to ``Suits``, which ``QueueOrder`` calls with job ids."""

    db: Transaction
    able: Able

    def job(self, job_id: str) -> bool:
        return able_to_make(self.db, self.able, by_id(self.db, job_id))

    def model(self, runs_on: str) -> bool:
        return self.able.model(runs_on)


def able_to_make(db: Transaction, able: Able, job: Job) -> bool:
    return able.job(job, slots_that_refused(db, job.id))


HELD_BY = f"SELECT * FROM jobs WHERE id = :id AND state = 'running' {HOLDS_CLAIM}"


def held_by(db: Transaction, claim: Claim) -> Job:
    return held_job(db.query(HELD_BY, claim_values(claim)))


def held_job(rows_found: Iterable[rows.Row]) -> Job:
    """The job in an answer to HELD_BY. Raises LostClaim."""
    for row in list(rows_found):
        return rows.to_job(row)
    raise LostClaim


def by_id(db: Transaction, job_id: str) -> Job:
    return next(rows.to_job(row) for row in db.query(JOB_BY_ID, [job_id]))


def claim_due(
    db: Transaction,
    line: QueueOrder,
    take: Callable[[str], list[Job]],
    worker: str,
    now: str,
    ahead: Ahead,
    most: int = 1,
    beside: Claim | None = None,
    urgent: bool = False,
) -> list[Job]:
    """The claim of ``JobStore.claim`` inside a transaction. ``take`` claims one job."""
    taken: list[Job] = []
    if not line.open:
        return []
    if db.scalar(RETRY_DUE, **delays(now)):
        for clear in CLEAR_DELAYS:
            db.execute(clear, delays(now))
    first = None if beside is None else held_by(db, beside)
    suits = None if ahead.able is None else SuitsOf(db, ahead.able)
    lane = rows.LANE_RANKS[Lane.INTERACTIVE] if urgent else None
    if first is None and (job_id := line.next(ahead.loaded, lane, suits)):
        taken += take(job_id)
        first = taken[0]
        work_hours.begin_work(db, worker, now)
    while first and len(taken) < most and (job_id := line_beside(db, line, first, ahead.able)):
        taken += take(job_id)
    return taken


def delays(now: str) -> dict[str, str]:
    """The values of the statements about delayed retries."""
    return {"now": now, "latest": utc_text(datetime.fromisoformat(now) + MAX_DELAY)}


def line_beside(db: Transaction, line: QueueOrder, first: Job, able: Able | None) -> str | None:
    """Id of the next job that fits into a pass with the claimed job ``first``; None if there is none."""

    def suits(job_id: str) -> bool:
        job = by_id(db, job_id)
        return batchable(first, job) and (able is None or able_to_make(db, able, job))

    return line.beside(rows.LANE_RANKS[first.lane], first.priority, first.params.model, suits)


def batchable(first: Job, other: Job) -> bool:
    """Whether one forward pass could make both: batch-lane jobs that differ only in prompts and seed.

    A job that crashed a worker, an upscale, and a picture that is remade at its old place or for two GPUs run alone.
    """
    one, two = (replace(job.params, **FREE_IN_PASS) for job in (first, other))
    alike = one == two and one.kind is not Kind.UPSCALE and not one.place and one.gpus == 1
    return alike and all(job.lane is Lane.BATCH and not job.crashes for job in (first, other))


def claim_values(claim: Claim) -> dict[str, Any]:
    return {"id": claim.job_id, "worker": claim.worker, "attempt": claim.attempt}


def slots_that_refused(db: Transaction, job_id: str) -> list[str]:
    found = db.execute("SELECT slot FROM refusals WHERE job_id = ? ORDER BY slot", [job_id]).fetchall()
    return [str(slot) for (slot,) in found]


def note_refusal(db: Transaction, job_id: str, slot: str, kind: str) -> None:
    db.upsert("refusals", {"job_id": job_id, "slot": slot, "kind": kind}, key=("job_id", "slot"))


class RefusalStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def any_of(self, slot: str) -> bool:
        """Whether a slot refused a job that has not ended."""
        return bool(self._database.fetch("SELECT 1 AS found FROM refusals WHERE slot = ? LIMIT 1", [slot]))

    def of_job(self, job_id: str) -> list[str]:
        with self._database.read() as db:
            return slots_that_refused(db, job_id)
