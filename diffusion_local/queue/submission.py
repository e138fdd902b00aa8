"""Inserts batches: idempotency keys, quotas and queue limits are checked in the same transaction."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import groupby
from typing import Any

from diffusion_local.accounts import store
from diffusion_local.db import rows
from diffusion_local.db.database import Transaction
from diffusion_local.db.row_access import FIELD_SEPARATOR, scoped_key
from diffusion_local.domain import Batch, Job, Receipt, State, new_id, new_job, utc_now
from diffusion_local.errors import Conflict, QueueBlocked, QueueFull, echo
from diffusion_local.messages import from_json, message
from diffusion_local.queue.order import get_gate

#: (batch, its jobs, its idempotency key, digest of the request).
NewBatch = tuple[Batch, Iterable[Job], str | None, str]
WAITING = "SELECT coalesce(sum(jobs), 0) FROM job_counts WHERE state = 'queued'"
#: The reason why the queue is blocked, the number of queued jobs, and the last position.
BEFORE_SUBMIT = f"SELECT blocked, blocked_json, ({WAITING}), (SELECT coalesce(max(position), 0) FROM jobs) FROM queue"


def insert_batch(
    db: Transaction,
    batch: Batch,
    jobs: Iterable[Job],
    idempotency_key: str | None,
    request: str,
    max_queued: int,
) -> tuple[str, list[str]]:
    """Insert a batch within a transaction; see ``JobStore.insert_batch``."""
    key = scoped_key(idempotency_key) if idempotency_key else None
    if key and (found := earlier_submit(db, key, request)):
        return found
    blocked, blocked_json, waiting, last = db.execute(BEFORE_SUBMIT).fetchone()
    if reason := from_json(blocked, blocked_json):
        raise QueueBlocked(message("queue_takes_nothing", reason=reason))
    store.check(db, batch.count)
    require_room(waiting, batch.count, max_queued)
    db.insert("batches", rows.batch_row(batch) | {"idempotency_key": key, "request": request})
    if batch.graph:
        db.insert("graphs", {"batch_id": batch.id, "owner": batch.owner, "graph": batch.graph})
    gate = get_gate(db, batch.window, batch.start_at)
    ids: list[str] = []

    def job_rows() -> Iterator[rows.Row]:
        for place, job in enumerate(store.check_sizes(jobs)):
            ids.append(job.id)
            yield rows.job_row(job) | {"position": last + 1 + place, "gate": gate}

    db.insert_many("jobs", job_rows())
    return batch.id, ids


def put_back(db: Transaction, where: str, values: dict[str, Any], max_queued: int) -> list[Receipt]:
    """Queue the recipes of selected cancelled jobs again, each at the place in the queue that its old job had.

    One new batch per old one, with the same name, lane, times and pause. Jobs that were put back before are skipped.
    The old jobs stay cancelled. Raises QueueFull and LimitReached.
    """
    stopped = f"(state = '{State.CANCELLED}' OR state = '{State.RUNNING}' AND cancel_requested = 1)"
    again = "EXISTS (SELECT 1 FROM jobs later WHERE later.from_job = jobs.id)"
    found = db.query(f"SELECT * FROM jobs WHERE {where} AND {stopped} AND NOT {again} ORDER BY batch_id, idx", values)
    old = [rows.to_job(row) for row in found]
    store.check(db, len(old))
    require_room(db.scalar(WAITING), len(old), max_queued)
    return [put_back_batch(db, key, list(jobs)) for key, jobs in groupby(old, lambda job: job.batch_id)]


def put_back_batch(db: Transaction, batch_id: str, old: list[Job]) -> Receipt:
    [former] = [rows.to_batch(row) for row in db.query("SELECT * FROM batches WHERE id = ?", [batch_id])]
    whole = len(old) == former.count  # a sheet needs all cells of its grid
    batch = replace(
        former,
        id=new_id(),
        count=len(old),
        created_at=utc_now(),
        grid=former.grid if whole else "",
        webhook="" if former.prediction else former.webhook,  # a prediction belongs to its own batch
        prediction="",
    )
    db.insert("batches", rows.batch_row(batch))
    gate = get_gate(db, batch.window, batch.start_at)
    new = [new_job(batch, place, job.params, job.priority, job.id) for place, job in enumerate(old)]
    db.insert_many(
        "jobs",
        (
            rows.job_row(job) | {"position": before.position, "gate": gate, "held": int(batch.paused)}
            for job, before in zip(new, old, strict=True)
        ),
    )
    return Receipt(batch.id, [job.id for job in new])


def require_room(waiting: int, count: int, max_queued: int) -> None:
    """Raise QueueFull if ``count`` more jobs than ``waiting`` exceed the limit of queued jobs."""
    if waiting + count > max_queued:
        raise QueueFull(message("queue_room", most=max_queued, waiting=waiting, asked=count))


def earlier_submit(db: Transaction, key: str, request: str) -> tuple[str, list[str]] | None:
    for batch in db.query("SELECT id, request FROM batches WHERE idempotency_key = ?", [key]):
        if batch["request"] != request:
            given = key.rpartition(FIELD_SEPARATOR)[2]
            raise Conflict(message("key_used", key=echo(given)))
        found = db.query("SELECT id FROM jobs WHERE batch_id = ? ORDER BY idx", [batch["id"]])
        return batch["id"], [row["id"] for row in found]
    return None


def request_digest(jobs: Iterable[Job]) -> str:
    """SHA-256 that identifies a request; seeds are excluded."""
    digest = sha256()
    for job in jobs:
        digest.update(job.params.without_seeds().to_json().encode())
    return digest.hexdigest()
