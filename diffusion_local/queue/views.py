"""Read-only queries of the queue: snapshot, lists, positions, events, durations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from diffusion_local.db import rows
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import RANKS, as_list, by_index, in_list, seconds_between
from diffusion_local.db.row_access import SEES_ALL, readable, redacted, scoped_key
from diffusion_local.db.rows import not_found
from diffusion_local.domain import FINAL, Batch, Event, Job, Snapshot, State, Worker, utc_now
from diffusion_local.messages import from_json
from diffusion_local.options.table import Params
from diffusion_local.queue.estimates import Share, Work
from diffusion_local.queue.finish_times import finish_times, total_seconds
from diffusion_local.queue.history import pace_of, queued_work
from diffusion_local.queue.order import OrderRules, QueueOrder
from diffusion_local.queue.recent_estimates import RecentEstimates
from diffusion_local.queue.work_hours import overhead_of

RECENT_JOBS = 1000  # newest ended jobs whose times are aggregated
JOBS = "SELECT * FROM jobs"
QUEUE_ORDER = "ORDER BY lane, priority DESC, position"
STALL_STEPS = 20
MAX_SINGLE_LOOKUPS = 3  # up to this many jobs are looked up one by one
#: Jobs ahead of a given one by position. Between owners and models fair sharing decides (queue.order).
JOBS_AHEAD = (
    "(lane < :lane OR lane = :lane AND (priority > :priority OR priority = :priority AND position < :position))"
)


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Counters for monitoring. ``waiting``, ``running``: by lane; ``claimable``: jobs that a worker could take now, by
    lane and model; ``ended``: by state; times: seconds, of the last RECENT_JOBS ended jobs.
    """

    revision: int
    paused: bool
    blocked: bool
    waiting: dict[str, int]
    running: dict[str, int]
    claimable: dict[tuple[str, str], int]
    ended: dict[str, int]
    failures: dict[str, int]
    pictures: int
    workers: list[Worker]
    wait_seconds: list[float]
    run_seconds: list[float]


def count_queue(database: Database, rules: OrderRules) -> QueueCounts:
    with database.read() as db:

        def counted(sql: str) -> dict[str, int]:
            return dict(db.execute(sql).fetchall())

        def by_lane(state: str, index: str) -> dict[str, int]:
            found = counted(
                f"SELECT lane, count(*) FROM {by_index('jobs', index)} WHERE state = '{state}' GROUP BY lane"
            )
            return {str(lane): found.get(rank, 0) for rank, lane in rows.LANES.items()}  # type: ignore[call-overload]

        revision, paused, blocked = db.execute("SELECT revision, paused, blocked FROM queue").fetchone()
        # The index `jobs_ended` gives the order, so the query stops after RECENT_JOBS rows. Time before a requeue
        # counts as waiting.
        times = db.execute(
            f"SELECT {seconds_between('created_at', 'started_at')}, {seconds_between('started_at', 'finished_at')} "
            f"FROM {by_index('jobs', 'jobs_ended')} "
            f"WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {RECENT_JOBS}"
        ).fetchall()
        ran = [(max(0.0, wait), max(0.0, run)) for wait, run in times if wait is not None]
        return QueueCounts(
            revision=revision,
            paused=bool(paused),
            blocked=bool(blocked),
            waiting=by_lane("queued", "jobs_queued"),
            running=by_lane("running", "jobs_running"),
            claimable={} if paused or blocked else QueueOrder(db, datetime.now(UTC), rules).claimable(),
            ended=counted(
                "SELECT state, sum(jobs) FROM job_counts WHERE state IN ('done', 'failed', 'cancelled') "
                "GROUP BY state HAVING sum(jobs) > 0"
            ),
            failures=counted(
                f"SELECT error_kind, count(*) FROM {by_index('jobs', 'jobs_by_state')} "
                "WHERE state = 'failed' GROUP BY error_kind"
            ),
            pictures=db.scalar("SELECT coalesce(sum(images), 0) FROM image_counts"),
            workers=[rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")],
            wait_seconds=[wait for wait, _ in ran],
            run_seconds=[run for _, run in ran],
        )


QUEUED = f"{by_index('jobs', 'jobs_queued')} WHERE state = 'queued'"
RUNNING = f"SELECT * FROM {by_index('jobs', 'jobs_running')} WHERE state = 'running'"
EVENT_READABLE = f"({SEES_ALL} OR EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id AND {readable('jobs')}))"


class QueueView:
    def __init__(self, database: Database, rules: OrderRules | None = None) -> None:
        self._database = database
        self._rules = rules or OrderRules()
        self._position: tuple[int | None, tuple[int, int]] = None, (0, 0)
        self._recent = RecentEstimates()

    def revision(self) -> int:
        """A number that grows with every visible change."""
        return self.position()[0]

    def position(self) -> tuple[int, int]:
        """(revision, number of the newest event). Polled often, so a database that reports writes is not queried again
        before there was one.
        """
        writes = self._database.writes()
        if writes is None or writes != self._position[0]:
            query = "SELECT revision, (SELECT coalesce(max(id), 0) FROM job_events) AS event FROM queue"
            [row] = self._database.fetch(query)
            self._position = writes, (row["revision"], row["event"])
        return self._position[1]

    def snapshot(self, waiting: int = 50, ended: int = 20) -> Snapshot:
        """The whole queue at one moment: running jobs, the first ``waiting`` and the last ``ended`` jobs."""
        now = datetime.fromisoformat(utc_now())
        with self._database.read() as db:
            queue = next(db.query("SELECT * FROM queue"))
            counts = dict(db.execute("SELECT state, sum(jobs) FROM job_counts GROUP BY state").fetchall())
            running = read_jobs(db, f"{RUNNING} ORDER BY started_at, id")
            workers = [rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]
            line = QueueOrder(db, now, self._rules)
            first = queued_jobs(db, line, next((each.model for each in workers if each.model), ""), waiting)
            work = queued_work(db)
            hands = loaded_models(workers)
            models = {*(each.model for each in work), *(job.params.runs_on for job in running)}
            pace = pace_of(db, models, line, hands[0])
            opens = line.closed_gates()
            shown = [redacted(job) for job in running]
            # the loaded model would disclose the model of a hidden job
            hidden = {job.worker for job in shown if job.hidden}
            return Snapshot(
                revision=queue["revision"],
                counts={state: counts.get(str(state), 0) for state in State},
                running=shown,
                waiting=[redacted(job) for job in first],
                ended=read_jobs(
                    db,
                    f"{JOBS} WHERE {readable()} AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT ?",
                    ended,
                ),
                workers=[replace(each, model="") if each.slot in hidden else each for each in workers],
                paused=bool(queue["paused"]),
                reason=from_json(queue["blocked"], queue["blocked_json"]),
                eta=finish_times(running, first, pace, len(hands), hands, seconds_until(now, opens)),
                total_eta=total_seconds(running, work, pace, len(hands), hands),
                window=queue["window"],
                resting=from_json(queue["resting"], queue["resting_json"]),
                sleep_at=queue["sleep_at"],
                opens=opens,
            )

    def place(self, job: Job) -> tuple[int | None, float | None]:
        """(1-based queue position, or None if not queued; seconds until done, or None if unknown)."""
        if job.final:
            return None, None
        with self._database.read() as db:
            running = read_jobs(db, RUNNING)
            hands = loaded_models([rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            ahead: dict[Work, int] = {}
            position = None
            if job.state is State.QUEUED:
                ahead = queued_work(
                    db,
                    JOBS_AHEAD,
                    lane=rows.LANE_RANKS[job.lane],
                    priority=job.priority,
                    position=job.position,
                )
                position = 1 + sum(ahead.values())
            models = {*(each.model for each in ahead), job.params.runs_on, *(each.params.runs_on for each in running)}
            line = QueueOrder(db, datetime.fromisoformat(utc_now()), self._rules)
            pace = pace_of(db, models, line, hands[0])
        if job.state is State.RUNNING:
            beside = [each for each in running if each.worker == job.worker and each.id != job.id]
            return None, finish_times([job, *beside], (), pace, 1, [job.params.runs_on]).get(job.id)
        ahead[Work.of_params(job.params)] = ahead.get(Work.of_params(job.params), 0) + 1
        return position, total_seconds(running, ahead, pace, len(hands), hands)

    def recent_estimate(self, job: Job) -> float | None:
        """Seconds until a job that was just submitted is done, or until one of its lane and priority was just now."""
        return self._recent.seconds(job, lambda each: self.place(each)[1])

    def places(self, wanted: Sequence[Job]) -> dict[str, tuple[int | None, float | None]]:
        """``place`` for many jobs, by id, in one pass over the queue."""
        if len(wanted) <= MAX_SINGLE_LOOKUPS:
            return {job.id: self.place(job) for job in wanted}
        left = {job.id: job for job in wanted if job.state is State.QUEUED}
        places: dict[str, tuple[int | None, float | None]] = {
            job.id: self.place(job) for job in wanted if job.state is not State.QUEUED
        }
        with self._database.read() as db:
            running = read_jobs(db, RUNNING)
            hands = loaded_models([rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            models = [row[0] for row in db.execute("SELECT DISTINCT model FROM jobs WHERE state = 'queued'").fetchall()]
            order = QueueOrder(db, datetime.fromisoformat(utc_now()), self._rules)
            pace = pace_of(db, {*models, *(job.params.runs_on for job in running)}, order, hands[0])
            line = db.execute(f"SELECT id, model, kind, pixels, steps FROM {QUEUED} {QUEUE_ORDER}")
            ahead: Counter[Work] = Counter()
            for position, (job_id, *work) in enumerate(line, start=1):
                if not left:
                    break
                ahead[Work(*work)] += 1
                if left.pop(job_id, None):
                    places[job_id] = (position, total_seconds(running, ahead, pace, len(hands), hands))
        return places | dict.fromkeys(left, (None, None))  # started or ended since they were read

    def jobs(
        self,
        states: Sequence[State] = (),
        batch_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first; those of a batch in batch order. ``before``: last id of the previous page.

        ``since`` and ``until`` (UTC) bound when they were submitted.
        """
        where: list[str] = [readable()]
        values: list[str] = []
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += map(str, states)
        further = "idx > (SELECT idx FROM jobs WHERE id = ?)" if batch_id else "id < ?"
        for clause, value in (
            ("batch_id = ?", batch_id),
            (further, before),
            ("created_at >= ?", since),
            ("created_at < ?", until),
        ):
            if value is not None:
                where.append(clause)
                values.append(str(value))
        order = "idx" if batch_id else "id DESC"
        with self._database.read() as db:
            return read_jobs(db, f"{JOBS} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?", *values, limit)

    def first_jobs(self, ids: list[str], most: int) -> list[Job]:
        """The first ``most`` jobs of each batch, newest batch first."""
        table = by_index("jobs", "jobs_by_batch")
        which = f"SELECT * FROM {table} WHERE batch_id = ? AND {readable()} ORDER BY idx LIMIT ?"
        with self._database.read() as db:
            return [job for batch_id in sorted(set(ids), reverse=True) for job in read_jobs(db, which, batch_id, most)]

    def counts(self, batch_ids: list[str]) -> dict[str, dict[State, int]]:
        """Job counts by batch and state, from an index alone; unknown ids are left out."""
        counts: dict[str, dict[State, int]] = {}
        with self._database.read() as db:
            for batch_id, rank, count in db.execute(
                f"SELECT batch_id, list_rank, count(*) FROM {by_index('jobs', 'jobs_listed')} "
                f"WHERE batch_id IN (SELECT id FROM batches WHERE {in_list('id')} AND {readable()}) "
                "GROUP BY batch_id, list_rank",
                {"ids": as_list(batch_ids)},
            ).fetchall():
                counts.setdefault(batch_id, dict.fromkeys(State, 0))[State(RANKS[rank])] = count
        return counts

    def events(self, job_id: str) -> list[Event]:
        """The events of a job, oldest first."""
        with self._database.read() as db:
            found = db.query(f"SELECT * FROM job_events WHERE job_id = ? AND {EVENT_READABLE} ORDER BY id", [job_id])
            return [rows.to_event(row) for row in found]

    def events_after(
        self, number: int, job_id: str | None = None, batch_id: str | None = None, limit: int = 500
    ) -> list[tuple[int, Event]]:
        """Events with their numbers, oldest first: of a job, of a batch's jobs, or all."""
        which = ""
        if job_id is not None:
            which = "job_id = :job_id AND "
        elif batch_id is not None:
            # Start at the batch's first event, so that a long earlier history costs nothing.
            which = (
                "EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id AND batch_id = :batch_id) AND id >= coalesce("
                "(SELECT min(first.id) FROM job_events AS first JOIN jobs ON jobs.id = first.job_id "
                "WHERE jobs.batch_id = :batch_id AND jobs.idx = 0), 0) AND "
            )
        values: dict[str, str | int | None] = {"number": number, "job_id": job_id, "batch_id": batch_id, "limit": limit}
        with self._database.read() as db:
            rows_found = db.query(
                f"SELECT * FROM job_events WHERE {which}id > :number AND {EVENT_READABLE} ORDER BY id LIMIT :limit",
                values,
            )
            return [(row["id"], rows.to_event(row)) for row in rows_found]

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        """A batch and its job counts by state. Raises NotFound."""
        with self._database.read() as db:
            for row in db.query(f"SELECT * FROM batches WHERE id = ? AND {readable()}", [batch_id]):
                counted = dict(
                    db.execute(
                        f"SELECT list_rank, count(*) FROM {by_index('jobs', 'jobs_listed')} WHERE batch_id = ? "
                        "GROUP BY list_rank",
                        [batch_id],
                    ).fetchall()
                )
                return rows.to_batch(row), {state: counted.get(RANKS.index(state), 0) for state in State}
            raise not_found(db, "batch", batch_id)

    def batch_of_key(self, idempotency_key: str) -> str | None:
        with self._database.read() as db:
            return db.scalar("SELECT id FROM batches WHERE idempotency_key = :key", key=scoped_key(idempotency_key))

    def unfinished(self, job_ids: list[str]) -> list[str]:
        """The ids of those jobs that have not ended."""
        ended = ", ".join(f"'{state}'" for state in sorted(FINAL))
        with self._database.read() as db:
            cursor = db.execute(
                f"SELECT id FROM jobs WHERE {in_list('id')} AND state NOT IN ({ended}) AND {readable()}",
                {"ids": as_list(job_ids)},
            )
            return [row[0] for row in cursor.fetchall()]

    def running_reports(self, slot: str, floor: float) -> list[tuple[Job, str, float]]:
        """Running jobs of a slot: (job, time of its last report, seconds of silence allowed).

        The last is ``floor``, or STALL_STEPS times the job's usual step duration if that is longer.
        """
        with self._database.read() as db:
            found = list(db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [slot]))
            running = [(rows.to_job(row), str(row["reported_at"])) for row in found]
            pace = pace_of(db, {job.params.runs_on for job, _ in running})
        # The jobs of one pass step together, and each accounts for a share of the time.
        steps = [
            len(running) * (pace.seconds(Work.of_params(job.params)) or 0.0) / job.params.total_steps
            for job, _ in running
        ]
        return [(job, at, max(floor, STALL_STEPS * step)) for (job, at), step in zip(running, steps, strict=True)]

    def seconds(self, work: Mapping[Work, int]) -> float | None:
        """Seconds that the present workers need for these numbers of pictures; None if unknown."""
        with self._database.read() as db:
            hands = loaded_models([rows.to_worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            pace = pace_of(db, {each.model for each in work})
            overhead = overhead_of(db)
            pace.gap, pace.lost = overhead.gap, overhead.lost
            return total_seconds((), work, pace, len(hands), hands)

    def shares(self, params: Params) -> list[Share]:
        """Measured durations of such pictures by pass size."""
        with self._database.read() as db:
            return pace_of(db, [params.runs_on]).shares.get(Work.of_params(params), [])

    def expected(self, params: Params, loaded: str, together: int = 1) -> float | None:
        """Seconds for a picture in a pass of ``together``, including the model's load unless it is ``loaded``."""
        with self._database.read() as db:
            pace = pace_of(db, [params.runs_on])
        each = pace.seconds(Work.of_params(params), together)
        return None if each is None else each + pace.load_seconds(params.runs_on, loaded)


def loaded_models(workers: Sequence[Worker]) -> list[str]:
    """The loaded models, one entry per active worker; [""] if there are no workers, so that estimates assume one."""
    return [worker.model for worker in workers if worker.status != "stopped"] or [""]


def seconds_until(now: datetime, opens: Mapping[int, str | None]) -> dict[int, float]:
    return {gate: (datetime.fromisoformat(at) - now).total_seconds() for gate, at in opens.items() if at}


def queued_jobs(db: Transaction, line: QueueOrder, loaded: str, count: int) -> list[Job]:
    """The first due jobs in the order they will run, then jobs that are held back, by position."""
    due = line.upcoming(loaded, count)
    due_jobs = {job.id: job for job in read_jobs(db, f"{JOBS} WHERE {in_list('id', '?')}", as_list(due))}
    page = [due_jobs[job_id] for job_id in due]
    if len(page) < count:
        rest = read_jobs(db, f"SELECT * FROM {QUEUED} {QUEUE_ORDER} LIMIT ?", count + len(page))
        page += [job for job in rest if job.id not in due_jobs]
    return page[:count]


def read_jobs(db: Transaction, sql: str, *values: str | int) -> list[Job]:
    return [rows.to_job(row) for row in db.query(sql, list(values))]
