"""Measurements that estimates and the memory policy learn from."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache

from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, by_index, in_list, seconds_between
from diffusion_local.domain import Fit, Job, utc_now
from diffusion_local.options.types import Kind
from diffusion_local.queue.claims import FREE_IN_PASS
from diffusion_local.queue.estimates import WARM_UP, FinishedPicture, JobTimings, Outlook, Pace, Work
from diffusion_local.queue.order import BATCH_RANK, QueueOrder
from diffusion_local.queue.work_hours import overhead_of

OUTLOOK_JOBS = 200  # first queued jobs from which the pass sizes and loads of the others are inferred
HISTORY_JOBS = 200  # newest pictures per model to learn from


class FitStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, model: str, device: str) -> list[Fit]:
        """All measurements of a model on a device."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM fits WHERE model = ? AND device = ?", [model, device])
            return [Fit(**row | {"kind": Kind(row["kind"])}) for row in found]

    def successful(self) -> dict[str, list[Fit]]:
        """Successful measurements by model, on any device, newest first."""
        fits: dict[str, list[Fit]] = {}
        with self._database.read() as db:
            for row in db.query("SELECT * FROM fits WHERE worked != '' ORDER BY at DESC"):
                fits.setdefault(row["model"], []).append(Fit(**row | {"kind": Kind(row["kind"])}))
        return fits

    def save(self, fit: Fit) -> None:
        """Store a measurement, replacing the one of the same model, kind, size and device."""
        row = asdict(fit) | {"kind": str(fit.kind), "at": utc_now()}
        with self._database.write() as db:
            db.upsert("fits", row, key=("model", "kind", "width", "height", "device"))

    def delete(self, model: str) -> None:
        """Delete the measurements of a model that was replaced or removed."""
        with self._database.write() as db:
            db.execute("DELETE FROM fits WHERE model = ?", [model])


def pace_of(db: Transaction, models: Iterable[str], line: QueueOrder | None = None, loaded: str = "") -> Pace:
    """Learned durations of models; with ``line``, also the time that queue order and overhead add to queued jobs.

    ``loaded``: the model in the memory of a worker.
    """
    pace = Pace.learn(history_of(db, models))
    if line is not None:
        overhead = overhead_of(db)
        pace.gap, pace.lost, pace.explores = overhead.gap, overhead.lost, line.explores
        pace.outlook = outlook_of(db, line, loaded)
    return pace


def usual_seconds(db: Transaction, job: Job, timings: JobTimings) -> float | None:
    """The usual share in a pass of a job that ran alone because a worker crashed with it, or in a much slower first
    pass; None for other jobs.
    """
    if not job.crashes and not timings.warm_up:
        return None
    pace, work = pace_of(db, [job.params.model]), Work.of_params(job.params)
    usual = pace.seconds(work) if job.crashes else pace.seconds_in_pass(work, timings.together)
    return usual if usual and (job.crashes or timings.run > WARM_UP * usual) else None


def history_of(db: Transaction, models: Iterable[str]) -> list[FinishedPicture]:
    """The newest pictures of each model."""
    history = []
    for model in models:
        finished = db.execute(
            f"SELECT kind, pixels, steps, coalesce(run_seconds, {seconds_between('started_at', 'finished_at')}), "
            "load_seconds, rung, together, crashes, warm_up FROM jobs "
            f"WHERE state = 'done' AND model = ? AND together > 0 ORDER BY finished_at DESC LIMIT {HISTORY_JOBS}",
            [model],
        ).fetchall()
        history += [FinishedPicture(Work(model, *each[:3]), *each[3:]) for each in finished]
    return history


def outlook_of(db: Transaction, line: QueueOrder, loaded: str) -> Outlook:
    """Outlook from the first due jobs of the batch lane, or from the first jobs by position if none is due."""
    due = line.upcoming(loaded, OUTLOOK_JOBS)
    columns = "SELECT id, lane, params, model, kind, pixels, steps FROM"
    if due:
        found = db.execute(f"{columns} jobs WHERE {in_list('id', '?')}", [as_list(due)]).fetchall()
        place = {job_id: number for number, job_id in enumerate(due)}
        first = sorted(found, key=lambda row: place[row[0]])
    else:
        queued = f"{by_index('jobs', 'jobs_queued')} WHERE state = 'queued'"
        first = db.execute(f"{columns} {queued} ORDER BY lane, priority DESC, position LIMIT {OUTLOOK_JOBS}").fetchall()
    return Outlook.of_line(
        ((Work(*work), pass_key(params)) for _, lane, params, *work in first if lane == BATCH_RANK), loaded
    )


@lru_cache(maxsize=4096)
def pass_key(params: str) -> str:
    """A key, from Params as JSON, that is equal for jobs that can share a pass."""
    return json.dumps({name: value for name, value in json.loads(params).items() if name not in FREE_IN_PASS})


def queued_work(db: Transaction, where: str = "", **values: int | str) -> dict[Work, int]:
    """Number of queued jobs per kind of work. ``where``: literal condition on the queue order."""
    counted = "SELECT model, kind, pixels, steps, jobs FROM job_counts WHERE state = 'queued' AND jobs > 0"
    if where:
        counted = (
            f"SELECT model, kind, pixels, steps, count(*) FROM {by_index('jobs', 'jobs_queued')} "
            f"WHERE state = 'queued' AND {where} GROUP BY model, kind, pixels, steps"
        )
    found = db.execute(counted, values).fetchall()
    return {Work(*work): count for *work, count in found}
