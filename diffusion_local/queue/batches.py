"""Batches as a whole: how far each is, when it will be done, and what of it can still be changed."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.accounts import quota
from diffusion_local.db import rows
from diffusion_local.db.access import ruled, seen
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, by_index, in_list
from diffusion_local.db.rows import missing
from diffusion_local.db.schema import RANKS
from diffusion_local.domain import Batch, Image, Job, Lane, Params, State, utc_now
from diffusion_local.queue import estimates
from diffusion_local.queue.batch_times import late_warning, of_batch
from diffusion_local.queue.estimates import Pace, Work
from diffusion_local.queue.history import pace_of, waiting_work
from diffusion_local.queue.order import OrderRules, gate_of
from diffusion_local.queue.views import RUNNING, hands_of, jobs

PAGE = 500  # jobs that are in memory at once


class BatchResults:
    def __init__(self, database: Database) -> None:
        self._database = database

    def of_batch(self, batch_id: str) -> Iterator[tuple[Job, str | None]]:
        """The batch's jobs in their order, each with its picture's key. Raises NotFound."""
        with self._database.read() as db:
            if not db.scalar(f"SELECT 1 FROM batches WHERE id = :id AND {seen()}", id=batch_id):
                raise missing(db, "batch", batch_id)
            found = db.execute("SELECT id FROM jobs WHERE batch_id = ? ORDER BY idx", [batch_id]).fetchall()
        return self._pages([row[0] for row in found])

    def waiting(self) -> Iterator[tuple[Job, str | None]]:
        """Every job that waits, in the order in which they will run."""
        line = f"SELECT id FROM jobs WHERE state = 'queued' AND {seen()} ORDER BY lane, priority DESC, position"
        with self._database.read() as db:
            return self._pages([row[0] for row in db.execute(line).fetchall()])

    def waiting_by_batch(self) -> Iterator[tuple[Batch, Job]]:
        """Every job that waits with its batch: the oldest batch first, each in its own order."""
        with self._database.read() as db:
            found = db.execute(
                f"SELECT id FROM jobs WHERE state = 'queued' AND {seen()} ORDER BY batch_id, priority DESC, position"
            )
            ids = [row[0] for row in found.fetchall()]
            batches = {
                row["id"]: rows.batch(row)
                for row in db.query(
                    "SELECT * FROM batches WHERE id IN (SELECT batch_id FROM jobs WHERE state = 'queued')"
                )
            }
        return ((batches[job.batch_id], job) for job, _ in self._pages(ids))

    def _pages(self, ids: list[str]) -> Iterator[tuple[Job, str | None]]:
        """By ids, so that a job that ends meanwhile is told once; one that is forgotten meanwhile is left out."""
        for start in range(0, len(ids), PAGE):
            asked = ids[start : start + PAGE]
            with self._database.read() as db:
                found = db.query(
                    "SELECT jobs.*, images.key AS image_key FROM jobs LEFT JOIN images "
                    "ON images.job_id = jobs.id AND images.trashed_at IS NULL "
                    f"WHERE {in_list('jobs.id')}",
                    {"ids": as_list(asked)},
                )
                jobs = {row["id"]: (rows.job(row), row["image_key"]) for row in found}
            yield from (jobs[job_id] for job_id in asked if job_id in jobs)


log = logging.getLogger(__name__)

LINE = (
    f"SELECT lane, -priority, position, model, kind, pixels, steps FROM {by_index('jobs', 'jobs_queued')} "
    "WHERE state = 'queued' ORDER BY lane, priority DESC, position"
)
END = (
    f"SELECT lane, -priority, position FROM {by_index('jobs', 'jobs_queued')} "
    "WHERE state = 'queued' ORDER BY lane DESC, priority, position DESC LIMIT 1"
)
NOWHERE = (-1, 0, 0)  # before the line
LAST = (
    f"SELECT list_priority, list_place FROM {by_index('jobs', 'jobs_listed')} WHERE batch_id = :id AND list_rank = 1 "
    "ORDER BY list_priority DESC, list_place DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """A batch, how many of its jobs are in each state, and when it will be done (UTC; None: nobody knows).

    ``done_at`` counts what stands before it in line and rests while its window is shut; fair shares between owners are
    not foreseen. While the queue is held nobody knows. ``warning`` says that it comes later than it should.
    """

    batch: Batch
    counts: dict[State, int]
    done_at: str | None = None
    warning: str = ""


class BatchRows:
    def __init__(self, database: Database, rules: OrderRules) -> None:
        self._database = database
        self._zone = rules.zone

    def page(self, limit: int, before: str | None, large: bool = False) -> list[BatchProgress]:
        """Batches, newest first; ``before`` is the last id of the page before.

        ``large`` leaves out single pictures that somebody waits for.
        """
        further = "AND id < :before" if before else ""
        if large:
            further += f" AND (lane = '{Lane.BATCH}' OR count > 1)"
        with self._database.read() as db:
            found = db.query(
                f"SELECT * FROM batches WHERE {seen()} {further} ORDER BY id DESC LIMIT :limit",
                {"before": before, "limit": limit},
            )
            return self.progress(db, [rows.batch(row) for row in found])

    def get(self, batch_id: str) -> BatchProgress:
        """Raises NotFound."""
        with self._database.read() as db:
            return self.progress(db, [batch_row(db, batch_id)])[0]

    def with_finish_by(self) -> list[BatchProgress]:
        """The batches that have jobs waiting and should be done by some time."""
        with self._database.read() as db:
            found = db.query(
                f"SELECT * FROM batches WHERE {seen()} AND finish_by IS NOT NULL AND EXISTS "
                "(SELECT 1 FROM jobs WHERE batch_id = batches.id AND list_rank = 1)"
            )
            return self.progress(db, [rows.batch(row) for row in found])

    def lateness(self, batch_id: str) -> list[str]:
        """A sentence, if the batch is not estimated to be done by its ``finish_by``.

        It is asked for once the batch is committed, as its place in the queue decides. An estimate that fails is
        logged and says nothing: the caller would take the error for a submit that failed, and submit again.
        """
        try:
            warning = self.get(batch_id).warning
        except Exception:
            log.exception("The lateness of batch %s could not be estimated.", batch_id)
            return []
        return [warning] if warning else []

    def progress(self, db: Transaction, batches: Sequence[Batch], most: int | None = None) -> list[BatchProgress]:
        """Of each batch; when it will be done is not told of what more than ``most`` jobs come before."""
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
        told = []
        for batch in batches:
            left = seconds.get(batch.id)
            done = None
            if left is not None:
                queue_window = window if rows.LANE_RANKS[batch.lane] else ""
                done = of_batch(batch).done_at(now, left, self._zone, queue_window)
            late = late_warning(batch.finish_by, done, self._zone)
            told.append(BatchProgress(batch, counts[batch.id], rows.utc(done), late))
        return told

    def _seconds_until(self, db: Transaction, batches: Sequence[Batch], most: int | None) -> dict[str, float]:
        """Seconds of work until the last job of each batch is done. One walk along the line, however many batches."""
        if not batches:
            return {}
        running = jobs(db, RUNNING)
        workers = hands_of([rows.worker(row) for row in db.query("SELECT * FROM workers")])
        work, loaded = waiting_work(db), {job.params.model for job in running}
        pace = pace_of(db, {each.model for each in work} | loaded)
        spent = estimates.total(running, {}, pace, 1, workers)
        if spent is None:
            return {}
        cuts = []
        for batch in batches:
            last = db.execute(LAST, {"id": batch.id}).fetchone()
            cuts.append(((rows.LANE_RANKS[batch.lane], *last) if last else NOWHERE, batch.id))
        end = db.execute(END).fetchone() or NOWHERE
        everything = estimates.total(running, work, pace, len(workers), workers)
        told = {batch_id: everything for cut, batch_id in cuts if cut == end and everything is not None}
        before = sorted(each for each in cuts if each[0] != end)
        return told | dict(walked(db, before, spent, pace, workers, loaded, most))

    # -- changes ---------------------------------------------------------------------------------------------------

    def rename(self, batch_id: str, name: str) -> None:
        """Raises NotFound."""
        with self._database.write() as db:
            if not db.execute(f"UPDATE batches SET name = ? WHERE id = ? AND {ruled()}", [name, batch_id]).rowcount:
                raise missing(db, "batch", batch_id)

    def waiting(self, batch_id: str) -> list[tuple[str, int, Params]]:
        """(id, place in the batch, Params) of what waits."""
        with self._database.read() as db:
            found = db.execute(
                "SELECT id, idx, params FROM jobs WHERE batch_id = ? AND state = 'queued' ORDER BY idx", [batch_id]
            ).fetchall()
        return [(job_id, index, Params.from_json(params)) for job_id, index, params in found]

    def recipes(self, batch_id: str) -> list[Params]:
        """Of all its jobs, in their order."""
        with self._database.read() as db:
            found = db.execute("SELECT params FROM jobs WHERE batch_id = ? ORDER BY idx", [batch_id]).fetchall()
        return [Params.from_json(row[0]) for row in found]

    def change(self, batch_id: str, params: Iterable[tuple[str, Params]], times: dict[str, Any]) -> int:
        """Give waiting jobs other Params, and the batch other times, in one transaction; how many jobs it reached.

        A job that has begun meanwhile is left as it is. Raises InvalidParams for one that becomes larger than the
        account's pictures may be, and then nothing is changed.
        """
        with self._database.write() as db:
            reached = 0
            for job_id, each in params:
                quota.check_size(each)
                values = rows.params_row(each)
                sets = ", ".join(f"{name} = :{name}" for name in values)
                reached += db.execute(
                    f"UPDATE jobs SET {sets} WHERE id = :id AND state = 'queued'", values | {"id": job_id}
                ).rowcount
            if times:
                sets = ", ".join(f"{name} = :{name}" for name in times)
                db.execute(f"UPDATE batches SET {sets} WHERE id = :id", times | {"id": batch_id})
                batch = batch_row(db, batch_id)
                db.execute(
                    "UPDATE jobs SET gate = ? WHERE batch_id = ? AND state IN ('queued', 'running')",
                    [gate_of(db, batch.window, batch.start_at), batch_id],
                )
        return reached

    # -- pictures --------------------------------------------------------------------------------------------------

    def images(self, batch_id: str, limit: int, after: str | None = None) -> list[Image]:
        """The batch's pictures in its own order; ``after`` is the last id of the page before."""
        further = "AND jobs.idx > (SELECT idx FROM jobs WHERE id = :after)" if after else ""
        with self._database.read() as db:
            found = db.query(
                "SELECT images.* FROM jobs JOIN images ON images.job_id = jobs.id "
                f"WHERE jobs.batch_id = :id AND images.trashed_at IS NULL AND {seen('images')} {further} "
                "ORDER BY jobs.idx LIMIT :limit",
                {"id": batch_id, "after": after, "limit": limit},
            )
            return [rows.image(row) for row in found]


def batch_row(db: Transaction, batch_id: str) -> Batch:
    """Raises NotFound."""
    for row in db.query(f"SELECT * FROM batches WHERE id = ? AND {seen()}", [batch_id]):
        return rows.batch(row)
    raise missing(db, "batch", batch_id)


def walked(
    db: Transaction,
    cuts: list[tuple[tuple[int, int, int], str]],
    spent: float,
    pace: Pace,
    workers: Sequence[str],
    loaded: set[str],
    most: int | None = None,
) -> Iterator[tuple[str, float]]:
    """(batch id, seconds until it is done), for each cut before the end of the line, up to where a pace is not known.

    What comes behind ``most`` jobs is left out.
    """
    if not cuts:
        return
    known: dict[tuple[Any, ...], float | None] = {}
    loaded |= set(workers)
    ahead = iter(cuts)
    cut, batch_id = next(ahead)
    for lane, priority, position, *work in db.execute(LINE if most is None else f"{LINE} LIMIT {most}"):
        place = (lane, priority, position)
        while place > cut:
            yield batch_id, spent / len(workers)
            following = next(ahead, None)
            if following is None:
                return
            cut, batch_id = following
        key = tuple(work)
        if key not in known:
            known[key] = pace.seconds(Work(*work))
        seconds = known[key]
        if seconds is None:
            return
        if work[0] not in loaded:
            loaded.add(work[0])
            spent += pace.load(work[0], "")
        spent += seconds
