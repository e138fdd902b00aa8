"""Conversion between table rows and domain objects."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from diffusion_local.db.database import Transaction
from diffusion_local.db.dialect import recipe_mark
from diffusion_local.db.row_access import readable
from diffusion_local.domain import Batch, DeviceMemory, Event, Failure, Image, Job, Lane, State, Worker, utc_text
from diffusion_local.errors import Gone, NotFound, echo
from diffusion_local.messages import from_json, message, to_json
from diffusion_local.options.table import Params
from diffusion_local.queue.estimates import JobTimings


def not_found(db: Transaction, noun: str, row_id: str) -> NotFound:
    """The error for a missing job, batch or picture: Gone if it was deleted and the actor could have read it, otherwise
    NotFound.
    """
    if db.scalar(f"SELECT 1 FROM deleted WHERE what = :what AND id = :id AND {readable()}", what=noun, id=row_id):
        return Gone(message(f"deleted_{noun}", id=echo(row_id)))
    return NotFound(message(f"no_such_{noun}", id=echo(row_id)))


Row = dict[str, Any]

#: Lanes as stored: their rank in the queue order.
LANE_RANKS = {Lane.INTERACTIVE: 0, Lane.BATCH: 1}
LANES = {rank: lane for lane, rank in LANE_RANKS.items()}


def to_job(row: Row) -> Job:
    failure = None
    if row["error_kind"]:
        failure = Failure(
            row["error_kind"], from_json(row["error_message"] or "", row["error_json"]), row["error_detail"] or ""
        )
    return Job(
        id=row["id"],
        batch_id=row["batch_id"],
        index=row["idx"],
        params=Params.from_json(row["params"]),
        state=State(row["state"]),
        created_at=row["created_at"],
        owner=row["owner"],
        lane=LANES[row["lane"]],
        priority=row["priority"],
        position=row["position"],
        held=bool(row["held"]),
        gate=row["gate"],
        not_before=row["not_before"],
        worker=row["worker"],
        attempt=row["attempt"],
        crashes=row["crashes"],
        tries=row["tries"],
        faults=row["faults"],
        step=row["step"],
        phase=from_json(row["phase"], row["phase_json"]),
        cancel_requested=bool(row["cancel_requested"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        from_job=row["from_job"],
        failure=failure,
    )


def timings_row(timings: JobTimings) -> Row:
    """Columns for the measured times of a finished job, from which later estimates are made."""
    return {
        "run_seconds": timings.run,
        "load_seconds": timings.load or None,
        "expected_seconds": timings.expected,
        "rung": timings.rung,
        "together": timings.together,
        "warm_up": int(timings.warm_up),
    }


def job_row(job: Job) -> Row:
    """Row of a new job. Columns not listed here take the table's defaults."""
    return {
        "id": job.id,
        "batch_id": job.batch_id,
        "idx": job.index,
        "owner": job.owner,
        "state": str(job.state),
        **params_row(job.params),
        "lane": LANE_RANKS[job.lane],
        "priority": job.priority,
        "position": job.position,
        "not_before": job.not_before,
        "created_at": job.created_at,
        "from_job": job.from_job,
    }


def failure_row(failure: Failure) -> Row:
    """Columns that describe why a job failed."""
    return {
        "error_kind": failure.kind,
        "error_message": failure.message,
        "error_json": to_json(failure.message),
        "error_detail": failure.detail,
    }


def note_row(note: str) -> Row:
    return {"note": note, "note_json": to_json(note)}


def set_clauses(row: Row) -> str:
    """SET clauses for the columns of a row, each preceded by a comma."""
    return "".join(f", {name} = :{name}" for name in row)


def params_row(params: Params) -> Row:
    """Columns of a job that depend on its Params."""
    pixels, steps = params.paced
    return {
        "params": params.to_json(),
        "model": params.runs_on,
        "cost": params.cost,
        "kind": str(params.kind),
        "pixels": pixels,
        "steps": steps,
    }


def utc_or_none(moment: datetime | None) -> str | None:
    return utc_text(moment) if moment else None


def to_batch(row: Row) -> Batch:
    return Batch(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        lane=Lane(row["lane"]),
        count=row["count"],
        created_at=row["created_at"],
        paused=bool(row["paused"]),
        window=row["window"],
        start_at=row["start_at"],
        finish_by=row["finish_by"],
        webhook=row["webhook"],
        grid=row["grid"],
        prediction=row["prediction"],
    )


def batch_row(batch: Batch) -> Row:
    """Row of a new batch, without its idempotency key and without its graph, which is in another table."""
    row = asdict(batch) | {"lane": str(batch.lane), "paused": int(batch.paused)}
    del row["graph"]
    return row


def to_image(row: Row) -> Image:
    return Image(
        id=row["id"],
        job_id=row["job_id"],
        key=row["key"],
        params=Params.from_json(row["params"]),
        width=row["width"],
        height=row["height"],
        bytes=row["bytes"],
        created_at=row["created_at"],
        seconds=row["seconds"],
        starred=bool(row["starred"]),
        trashed_at=row["trashed_at"],
        owner=row["owner"],
        facts=json.loads(row["facts"]),
        caption=row["caption"],
    )


def image_row(image: Image) -> Row:
    return {
        "id": image.id,
        "job_id": image.job_id,
        "key": image.key,
        "params": image.params.to_json(),
        "mark": recipe_mark(image.params),
        "facts": json.dumps(image.facts, ensure_ascii=False),
        "flag": image.flag,
        "prompt": image.params.prompt,
        "model": image.params.model,
        "seed": image.params.seed,
        "width": image.width,
        "height": image.height,
        "bytes": image.bytes,
        "seconds": image.seconds,
        "starred": int(image.starred),
        "trashed_at": image.trashed_at,
        "created_at": image.created_at,
    }


def to_event(row: Row) -> Event:
    return Event(
        row["job_id"], row["state"], row["at"], row["attempt"], row["worker"], from_json(row["note"], row["note_json"])
    )


def to_worker(row: Row) -> Worker:
    return Worker(
        row["slot"],
        row["pid"],
        row["device"],
        row["status"],
        row["model"],
        row["started_at"],
        row["seen_at"],
        DeviceMemory(row["type"], row["memory_bytes"], bool(row["bf16"])),
        row["free_bytes"],
    )
