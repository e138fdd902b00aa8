"""Batches as a whole: progress, estimated completion, changes to their queued jobs, and the node graphs from which
batches were submitted.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.accounts import store
from diffusion_local.authority import guarded
from diffusion_local.db import rows
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import RANKS, as_list, by_index, in_list
from diffusion_local.db.row_access import owned, readable, writable
from diffusion_local.db.rows import not_found
from diffusion_local.domain import Batch, Image, Job, Lane, State, utc_now
from diffusion_local.errors import NotFound, echo
from diffusion_local.messages import message
from diffusion_local.options.table import Params
from diffusion_local.queue.batch_times import late_warning, timing_of
from diffusion_local.queue.estimates import Pace, Work
from diffusion_local.queue.finish_times import total_seconds
from diffusion_local.queue.history import pace_of, queued_work
from diffusion_local.queue.order import OrderRules, QueueOrder, get_gate
from diffusion_local.queue.views import RUNNING, loaded_models, read_jobs

PAGE_JOBS = 500  # jobs in memory at once
FORECAST_PICTURES = 20  # pictures done before a list's estimated end is recorded for its report
NOT_QUEUED = (-1, 0, 0)  # sorts before the first job
MAX_GRAPHS_PER_PAGE = 200
LEFT = "(SELECT 1 FROM jobs WHERE jobs.batch_id = graphs.batch_id AND jobs.state IN ('queued', 'running'))"


class BatchResults:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of_batch(self, batch_id: str) -> Iterator[tuple[Job, str | None]]:
        """The batch's jobs in order, each with its picture's key or None. Raises NotFound."""
        with self._database.read() as db:
            if not db.scalar(f"SELECT 1 FROM batches WHERE id = :id AND {readable()}", id=batch_id):
                raise not_found(db, "batch", batch_id)
            found = db.execute("SELECT id FROM jobs WHERE batch_id = ? ORDER BY idx", [batch_id]).fetchall()
        return self._pages([row[0] for row in found])

    def queued(self) -> Iterator[tuple[Job, str | None]]:
        """All queued jobs, in queue order."""
        line = f"SELECT id FROM jobs WHERE state = 'queued' AND {readable()} ORDER BY lane, priority DESC, position"
        with self._database.read() as db:
            return self._pages([row[0] for row in db.execute(line).fetchall()])

    def queued_by_batch(self) -> Iterator[tuple[Batch, Job]]:
        """All queued jobs with their batches: oldest batch first, each batch in queue order."""
        with self._database.read() as db:
            cursor = db.execute(
                f"SELECT id FROM jobs WHERE state = 'queued' AND {readable()} "
                "ORDER BY batch_id, priority DESC, position"
            )
            ids = [row[0] for row in cursor.fetchall()]
            batches = {
                row["id"]: rows.to_batch(row)
                for row in db.query(
                    "SELECT * FROM batches WHERE id IN (SELECT batch_id FROM jobs WHERE state = 'queued')"
                )
            }
        return ((batches[job.batch_id], job) for job, _ in self._pages(ids))

    def _pages(self, ids: list[str]) -> Iterator[tuple[Job, str | None]]:
        """Read jobs by id, so that a job that changes state meanwhile still appears exactly once.

        Jobs deleted meanwhile are skipped.
        """
        for start in range(0, len(ids), PAGE_JOBS):
            chunk = ids[start : start + PAGE_JOBS]
            with self._database.read() as db:
                rows_found = db.query(
                    "SELECT jobs.*, images.key AS image_key FROM jobs LEFT JOIN images "
                    "ON images.job_id = jobs.id AND images.trashed_at IS NULL "
                    f"WHERE {in_list('jobs.id')}",
                    {"ids": as_list(chunk)},
                )
                jobs = {row["id"]: (rows.to_job(row), row["image_key"]) for row in rows_found}
            yield from (jobs[job_id] for job_id in chunk if job_id in jobs)


log = logging.getLogger(__name__)

QUEUE = (
    f"SELECT lane, -priority, position, model, kind, pixels, steps FROM {by_index('jobs', 'jobs_queued')} "
    "WHERE state = 'queued' ORDER BY lane, priority DESC, position"
)
QUEUE_END = (
    f"SELECT lane, -priority, position FROM {by_index('jobs', 'jobs_queued')} "
    "WHERE state = 'queued' ORDER BY lane DESC, priority, position DESC LIMIT 1"
)
#: Models of a batch's queued jobs that have made only first passes, or pictures after a crash.
HARDLY_KNOWN = (
    f"FROM (SELECT DISTINCT model FROM {by_index('jobs', 'jobs_listed')} "
    "WHERE batch_id = :id AND list_rank = 1) AS ahead WHERE NOT EXISTS (SELECT 1 FROM jobs "
    "WHERE jobs.model = ahead.model AND state = 'done' AND together > 0 AND warm_up = 0 AND crashes = 0)"
)
BATCH_END = (
    f"SELECT list_priority, list_place FROM {by_index('jobs', 'jobs_listed')} WHERE batch_id = :id AND list_rank = 1 "
    "ORDER BY list_priority DESC, list_place DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch, its job counts by state, and its estimated completion (UTC; None: unknown).

    ``done_at`` includes the jobs ahead in the queue and the hours in which the batch's window is closed, but not fair
    sharing between owners. It is unknown while the queue is paused or blocked. ``warning``: the deadline will be
    missed.
    """

    batch: Batch
    counts: dict[State, int]
    done_at: str | None = None
    warning: str = ""


class BatchRows:
    def __init__(self, database: Database, rules: OrderRules) -> None:
        self._database = database
        self._rules = rules

    def page(self, limit: int, before: str | None, large: bool = False) -> list[BatchProgress]:
        """Batches, newest first. ``before``: last id of the previous page.

        ``large`` leaves out single interactive pictures.
        """
        further = "AND id < :before" if before else ""
        if large:
            further += f" AND (lane = '{Lane.BATCH}' OR count > 1)"
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT * FROM batches WHERE {readable()} {further} ORDER BY id DESC LIMIT :limit",
                {"before": before, "limit": limit},
            )
            return self.progress(db, [rows.to_batch(row) for row in rows_found])

    def get(self, batch_id: str) -> BatchProgress:
        """Progress of one batch. Raises NotFound."""
        with self._database.read() as db:
            return self.progress(db, [read_batch(db, batch_id)])[0]

    def with_finish_by(self) -> list[BatchProgress]:
        """Batches with queued jobs and a deadline."""
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT * FROM batches WHERE {readable()} AND finish_by IS NOT NULL AND EXISTS "
                "(SELECT 1 FROM jobs WHERE batch_id = batches.id AND list_rank = 1)"
            )
            return self.progress(db, [rows.to_batch(row) for row in rows_found])

    def lateness(self, batch_id: str) -> list[str]:
        """Deadline warning for one batch, as a list of 0 or 1 sentences.

        Called after the batch is committed, because the estimate depends on its place in the queue. A failing estimate
        is logged and yields no warning: as an error it would look like a failed submit, and the caller would submit
        again.
        """
        try:
            warning = self.get(batch_id).warning
        except Exception:
            log.exception("The lateness of batch %s could not be estimated.", batch_id)
            return []
        return [warning] if warning else []

    def note_forecast(self, batch_id: str) -> None:
        """Record the estimated end of a list once: as soon as FORECAST_PICTURES are done and each model of the others
        is known by more than slow first passes.
        """
        new = "SELECT 1 AS found FROM batches WHERE id = ? AND forecast_at IS NULL AND count >= ?"
        if not self._database.fetch(new, [batch_id, 2 * FORECAST_PICTURES]):
            return
        with self._database.read() as db:
            table = by_index("jobs", "jobs_listed")
            done = f"SELECT 1 FROM {table} WHERE batch_id = :id AND list_rank = {RANKS.index(State.DONE)}"
            enough = f"SELECT count(*) FROM ({done} LIMIT {FORECAST_PICTURES}) AS first"
            if db.scalar(enough, id=batch_id) < FORECAST_PICTURES:
                return
            if db.scalar(f"SELECT 1 {HARDLY_KNOWN} LIMIT 1", id=batch_id):
                return
            batch = next(rows.to_batch(row) for row in db.query("SELECT * FROM batches WHERE id = ?", [batch_id]))
            [progress] = self.progress(db, [batch])
        if progress.done_at is None:
            return
        with self._database.write() as db:
            note = "UPDATE batches SET forecast_at = ?, forecast_end = ?, forecast_pictures = ? WHERE id = ?"
            db.execute(note, [utc_now(), progress.done_at, progress.counts[State.DONE], batch_id])

    def progress(self, db: Transaction, batches: Sequence[Batch], most: int | None = None) -> list[BatchProgress]:
        """Progress per batch. ``done_at`` is None if more than ``most`` jobs are ahead."""
        counts: dict[str, dict[State, int]] = {batch.id: dict.fromkeys(State, 0) for batch in batches}
        for batch_id, rank, count in db.execute(
            f"SELECT batch_id, list_rank, count(*) FROM {by_index('jobs', 'jobs_listed')} "
            f"WHERE {in_list('batch_id')} GROUP BY batch_id, list_rank",
            {"ids": as_list(counts)},
        ).fetchall():
            counts[batch_id][State(RANKS[rank])] = count
        unfinished = [batch for batch in batches if counts[batch.id][State.QUEUED] + counts[batch.id][State.RUNNING]]
        window, held = db.execute("SELECT window, paused != 0 OR blocked != '' FROM queue").fetchone()
        seconds = {} if held else self._seconds_until(db, unfinished, most)
        now = datetime.fromisoformat(utc_now())
        progress = []
        for batch in batches:
            left = seconds.get(batch.id)
            done = None
            if left is not None:
                queue_window = window if rows.LANE_RANKS[batch.lane] else ""
                done = timing_of(batch).done_at(now, left, self._rules.zone, queue_window)
            late = late_warning(batch.finish_by, done, self._rules.zone)
            progress.append(BatchProgress(batch, counts[batch.id], rows.utc_or_none(done), late))
        return progress

    def _seconds_until(self, db: Transaction, batches: Sequence[Batch], most: int | None) -> dict[str, float]:
        """Seconds of work until each batch's last job is done, in one pass over the queue."""
        if not batches:
            return {}
        running = read_jobs(db, RUNNING)
        workers = loaded_models([rows.to_worker(row) for row in db.query("SELECT * FROM workers")])
        work, loaded = queued_work(db), {job.params.model for job in running}
        line = QueueOrder(db, datetime.fromisoformat(utc_now()), self._rules)
        pace = pace_of(db, {each.model for each in work} | loaded, line, workers[0])
        spent = total_seconds(running, {}, pace, 1, workers)
        if spent is None:
            return {}
        cuts = []
        for batch in batches:
            last = db.execute(BATCH_END, {"id": batch.id}).fetchone()
            cuts.append(((rows.LANE_RANKS[batch.lane], *last) if last else NOT_QUEUED, batch.id))
        end = db.execute(QUEUE_END).fetchone() or NOT_QUEUED
        everything = total_seconds(running, work, pace, len(workers), workers)
        at_end = {batch_id: everything for cut, batch_id in cuts if cut == end and everything is not None}
        before = sorted(each for each in cuts if each[0] != end)
        return at_end | dict(seconds_until_cuts(db, before, spent, pace, workers, loaded, most))

    # -- changes ---------------------------------------------------------------------------------------------------

    def rename(self, batch_id: str, name: str) -> None:
        """Rename a batch. Raises NotFound."""
        with self._database.write() as db:
            if not db.execute(f"UPDATE batches SET name = ? WHERE id = ? AND {writable()}", [name, batch_id]).rowcount:
                raise not_found(db, "batch", batch_id)

    def queued(self, batch_id: str) -> list[tuple[str, int, Params]]:
        """(id, index in the batch, Params) of the queued jobs."""
        with self._database.read() as db:
            found = db.execute(
                "SELECT id, idx, params FROM jobs WHERE batch_id = ? AND state = 'queued' ORDER BY idx", [batch_id]
            ).fetchall()
        return [(job_id, index, Params.from_json(params)) for job_id, index, params in found]

    def recipes(self, batch_id: str) -> list[Params]:
        """Params of all jobs, in batch order."""
        with self._database.read() as db:
            found = db.execute("SELECT params FROM jobs WHERE batch_id = ? ORDER BY idx", [batch_id]).fetchall()
        return [Params.from_json(row[0]) for row in found]

    def change(self, batch_id: str, params: Iterable[tuple[str, Params]], times: dict[str, Any]) -> int:
        """Replace the Params of queued jobs and the times of the batch, in one transaction; returns the number of jobs
        changed.

        Jobs that have started meanwhile are left alone. Raises InvalidParams, and changes nothing, if a picture exceeds
        the account's size limit.
        """
        with self._database.write() as db:
            changed = 0
            for job_id, each in params:
                store.check_size(each)
                values = rows.params_row(each)
                sets = ", ".join(f"{name} = :{name}" for name in values)
                changed += db.execute(
                    f"UPDATE jobs SET {sets} WHERE id = :id AND state = 'queued'", values | {"id": job_id}
                ).rowcount
            if times:
                sets = ", ".join(f"{name} = :{name}" for name in times)
                db.execute(f"UPDATE batches SET {sets} WHERE id = :id", times | {"id": batch_id})
                batch = read_batch(db, batch_id)
                db.execute(
                    "UPDATE jobs SET gate = ? WHERE batch_id = ? AND state IN ('queued', 'running')",
                    [get_gate(db, batch.window, batch.start_at), batch_id],
                )
        return changed

    # -- pictures --------------------------------------------------------------------------------------------------

    def images(self, batch_id: str, limit: int, after: str | None = None) -> list[Image]:
        """The batch's pictures in batch order. ``after``: last picture's job id of the previous page."""
        further = "AND jobs.idx > (SELECT idx FROM jobs WHERE id = :after)" if after else ""
        with self._database.read() as db:
            rows_found = db.query(
                "SELECT images.* FROM jobs JOIN images ON images.job_id = jobs.id "
                f"WHERE jobs.batch_id = :id AND images.trashed_at IS NULL AND {readable('images')} {further} "
                "ORDER BY jobs.idx LIMIT :limit",
                {"id": batch_id, "after": after, "limit": limit},
            )
            return [rows.to_image(row) for row in rows_found]


def read_batch(db: Transaction, batch_id: str) -> Batch:
    """The batch with this id. Raises NotFound."""
    for row in db.query(f"SELECT * FROM batches WHERE id = ? AND {readable()}", [batch_id]):
        return rows.to_batch(row)
    raise not_found(db, "batch", batch_id)


def seconds_until_cuts(
    db: Transaction,
    cuts: list[tuple[tuple[int, int, int], str]],
    spent: float,
    pace: Pace,
    workers: Sequence[str],
    loaded: set[str],
    most: int | None = None,
) -> Iterator[tuple[str, float]]:
    """(batch id, seconds until done) per cut (queue position of a batch's last job), in queue order.

    Stops at the first job whose duration is unknown, and after ``most`` jobs.
    """
    if not cuts:
        return
    durations: dict[tuple[Any, ...], float | None] = {}
    loaded |= set(workers)
    pictures: Counter[str] = Counter()
    ahead = iter(cuts)
    cut, batch_id = next(ahead)
    for lane, priority, position, *work in db.execute(QUEUE if most is None else f"{QUEUE} LIMIT {most}"):
        place = (lane, priority, position)
        while place > cut:
            loads = sum(pace.queued_loads(model, count, model in loaded) for model, count in pictures.items())
            yield batch_id, (spent + loads) / len(workers)
            following = next(ahead, None)
            if following is None:
                return
            cut, batch_id = following
        key = tuple(work)
        if key not in durations:
            durations[key] = pace.queued_seconds(Work(*work))
        seconds = durations[key]
        if seconds is None:
            return
        pictures[work[0]] += 1
        spent += seconds


@dataclass(frozen=True, slots=True)
class Graph:
    """The node graph of a batch. ``graph``: JSON as submitted; ``finished``: all jobs of the batch have ended."""

    batch_id: str
    graph: str
    created_at: str
    finished: bool


@guarded("graphs")
class GraphStore:
    """Node graphs of batches; created by ``compose`` and available as ``studio.graphs``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, batch_id: str) -> Graph:
        """The graph of one batch. Raises NotFound."""
        found = self._read("AND graphs.batch_id = :id", id=batch_id)
        if not found:
            raise NotFound(message("no_such_batch", id=echo(batch_id)))
        return found[0]

    def page(self, limit: int = MAX_GRAPHS_PER_PAGE, before: str | None = None) -> list[Graph]:
        """Graphs, newest first. ``before``: last batch id of the previous page."""
        further = "AND graphs.batch_id < :before" if before else ""
        return self._read(further, limit=max(0, min(limit, MAX_GRAPHS_PER_PAGE)), before=before)

    def unfinished(self, limit: int = MAX_GRAPHS_PER_PAGE) -> list[Graph]:
        """Graphs of batches with unfinished jobs, newest first."""
        return self._read(f"AND EXISTS {LEFT}", limit=max(0, min(limit, MAX_GRAPHS_PER_PAGE)))

    def _read(self, further: str, limit: int = 1, **values: str | None) -> list[Graph]:
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT graphs.*, batches.created_at, EXISTS {LEFT} AS unfinished FROM graphs "
                f"JOIN batches ON batches.id = graphs.batch_id WHERE {owned('graphs')} {further} "
                "ORDER BY graphs.batch_id DESC LIMIT :limit",
                values | {"limit": limit},
            )
            return [
                Graph(row["batch_id"], row["graph"], row["created_at"], not row["unfinished"]) for row in rows_found
            ]
