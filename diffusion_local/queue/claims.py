"""Which queued jobs a worker may claim: what it can make, and what fits into a pass with another."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

from diffusion_local.db import rows
from diffusion_local.db.database import Transaction
from diffusion_local.domain import Claim, Job, Kind, Lane
from diffusion_local.errors import LostClaim
from diffusion_local.queue.order import QueueOrder

JOB = "SELECT * FROM jobs WHERE id = ?"
HOLDS_CLAIM = "AND worker = :worker AND attempt = :attempt"


class Able(Protocol):
    """Which jobs a worker can make."""

    def job(self, job: Job) -> bool: ...

    def model(self, runs_on: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class SuitsOf:
    """``Able`` for jobs by their ids, as ``QueueOrder`` asks."""

    db: Transaction
    able: Able

    def job(self, job_id: str) -> bool:
        return self.able.job(by_id(self.db, job_id))

    def model(self, runs_on: str) -> bool:
        return self.able.model(runs_on)


def held_by(db: Transaction, claim: Claim) -> Job:
    query = f"SELECT * FROM jobs WHERE id = :id AND state = 'running' {HOLDS_CLAIM}"
    for row in list(db.query(query, claim_values(claim))):
        return rows.to_job(row)
    raise LostClaim


def by_id(db: Transaction, job_id: str) -> Job:
    return next(rows.to_job(row) for row in db.query(JOB, [job_id]))


def line_beside(db: Transaction, line: QueueOrder, first: Job, able: Able | None) -> str | None:
    """Id of the next job that fits into a pass with the claimed job ``first``; None if there is none."""

    def suits(job_id: str) -> bool:
        job = by_id(db, job_id)
        return batchable(first, job) and (able is None or able.job(job))

    return line.beside(rows.LANE_RANKS[first.lane], first.priority, first.params.model, suits)


def batchable(first: Job, other: Job) -> bool:
    """Whether one forward pass could make both: batch-lane jobs that differ only in prompts and seed.

    A job that crashed a worker, an upscale, and a picture that is remade in its old place run alone.
    """
    one, two = (replace(job.params, prompt="", negative="", seed=0) for job in (first, other))
    alike = one == two and one.kind is not Kind.UPSCALE and not one.place
    return alike and all(job.lane is Lane.BATCH and not job.crashes for job in (first, other))


def claim_values(claim: Claim) -> dict[str, Any]:
    return {"id": claim.job_id, "worker": claim.worker, "attempt": claim.attempt}
