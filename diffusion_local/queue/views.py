"""What is asked about the queue without changing it: snapshot, lists, positions, history, paces."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from diffusion_local.db import rows
from diffusion_local.db.access import SEES_ALL, scoped, seen, veiled
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, by_index, in_list, seconds_between
from diffusion_local.db.rows import missing
from diffusion_local.db.schema import RANKS
from diffusion_local.domain import FINAL, Batch, Event, Job, Params, Snapshot, State, Worker, utc_now
from diffusion_local.messages import decoded
from diffusion_local.queue import estimates
from diffusion_local.queue.estimates import Share, Work
from diffusion_local.queue.history import pace_of, waiting_work
from diffusion_local.queue.order import OrderRules, QueueOrder

RECENT = 1000  # ended jobs whose times are told


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """``waiting`` and ``running`` by lane, ``ended`` by state; times in seconds, of the last RECENT ended jobs."""

    revision: int
    paused: bool
    blocked: bool
    waiting: dict[str, int]
    running: dict[str, int]
    ended: dict[str, int]
    failures: dict[str, int]
    pictures: int
    workers: list[Worker]
    wait_seconds: list[float]
    run_seconds: list[float]


def read_tally(database: Database) -> QueueCounts:
    with database.read() as db:

        def counted(sql: str) -> dict[str, int]:
            return dict(db.execute(sql).fetchall())

        def by_lane(state: str, index: str) -> dict[str, int]:
            found = counted(
                f"SELECT lane, count(*) FROM {by_index('jobs', index)} WHERE state = '{state}' GROUP BY lane"
            )
            return {str(lane): found.get(rank, 0) for rank, lane in rows.LANES.items()}  # type: ignore[call-overload]

        revision, paused, blocked = db.execute("SELECT revision, paused, blocked FROM queue").fetchone()
        # Out of `jobs_ended`, whose order lets it stop after RECENT rows. Times before a requeue count as waiting.
        times = db.execute(
            f"SELECT {seconds_between('created_at', 'started_at')}, {seconds_between('started_at', 'finished_at')} "
            f"FROM {by_index('jobs', 'jobs_ended')} "
            f"WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT {RECENT}"
        ).fetchall()
        ran = [(max(0.0, wait), max(0.0, run)) for wait, run in times if wait is not None]
        return QueueCounts(
            revision=revision,
            paused=bool(paused),
            blocked=bool(blocked),
            waiting=by_lane("queued", "jobs_queued"),
            running=by_lane("running", "jobs_running"),
            ended=counted(
                "SELECT state, sum(jobs) FROM job_counts WHERE state IN ('done', 'failed', 'cancelled') "
                "GROUP BY state HAVING sum(jobs) > 0"
            ),
            failures=counted(
                f"SELECT error_kind, count(*) FROM {by_index('jobs', 'jobs_by_state')} "
                "WHERE state = 'failed' GROUP BY error_kind"
            ),
            pictures=db.scalar("SELECT coalesce(sum(images), 0) FROM image_counts"),
            workers=[rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")],
            wait_seconds=[wait for wait, _ in ran],
            run_seconds=[run for _, run in ran],
        )


JOBS = "SELECT * FROM jobs"
QUEUED = f"{by_index('jobs', 'jobs_queued')} WHERE state = 'queued'"
ORDER = "ORDER BY lane, priority DESC, position"
RUNNING = f"SELECT * FROM {by_index('jobs', 'jobs_running')} WHERE state = 'running'"
STALL_STEPS = 20
FEW = 3  # jobs whose places are cheaper to look up one by one
#: What stands before a job in line, as positions go; between owners and models it is turns that decide (queue.order).
BEFORE = "(lane < :lane OR lane = :lane AND (priority > :priority OR priority = :priority AND position < :position))"
VISIBLE = f"({SEES_ALL} OR EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id AND {seen('jobs')}))"


class QueueView:
    def __init__(self, database: Database, rules: OrderRules | None = None) -> None:
        self._database = database
        self._rules = rules or OrderRules()

    def revision(self) -> int:
        """A number that grows with every visible change."""
        with self._database.read() as db:
            return db.scalar("SELECT revision FROM queue")

    def moment(self) -> tuple[int, int]:
        """(revision, number of the newest event)."""
        with self._database.read() as db:
            return db.execute("SELECT revision, (SELECT coalesce(max(id), 0) FROM job_events) FROM queue").fetchone()

    def snapshot(self, waiting: int = 50, ended: int = 20) -> Snapshot:
        """The whole queue at one moment: the running, the first ``waiting`` and the last ``ended`` jobs."""
        now = datetime.fromisoformat(utc_now())
        with self._database.read() as db:
            queue = next(db.query("SELECT * FROM queue"))
            counts = dict(db.execute("SELECT state, sum(jobs) FROM job_counts GROUP BY state").fetchall())
            running = jobs(db, f"{RUNNING} ORDER BY started_at, id")
            workers = [rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")]
            line = QueueOrder(db, now, self._rules)
            first = waiting_jobs(db, line, next((each.model for each in workers if each.model), ""), waiting)
            work = waiting_work(db)
            pace = pace_of(db, {*(each.model for each in work), *(job.params.runs_on for job in running)})
            hands = hands_of(workers)
            opens = line.closed()
            shown = [veiled(job) for job in running]
            hidden = {job.worker for job in shown if job.hidden}  # the model in its memory is that of its job
            return Snapshot(
                revision=queue["revision"],
                counts={state: counts.get(str(state), 0) for state in State},
                running=shown,
                waiting=[veiled(job) for job in first],
                ended=jobs(
                    db, f"{JOBS} WHERE {seen()} AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT ?", ended
                ),
                workers=[replace(each, model="") if each.slot in hidden else each for each in workers],
                paused=bool(queue["paused"]),
                reason=decoded(queue["blocked"], queue["blocked_json"]),
                eta=estimates.finish_times(running, first, pace, len(hands), hands, seconds_until(now, opens)),
                total_eta=estimates.total(running, work, pace, len(hands), hands),
                window=queue["window"],
                resting=decoded(queue["resting"], queue["resting_json"]),
                sleep_at=queue["sleep_at"],
                opens=opens,
            )

    def place(self, job: Job) -> tuple[int | None, float | None]:
        """(position in line from 1, or None if it does not wait; seconds until it is done, or None if unknown)."""
        if job.final:
            return None, None
        with self._database.read() as db:
            running = jobs(db, RUNNING)
            hands = hands_of([rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            ahead: dict[Work, int] = {}
            position = None
            if job.state is State.QUEUED:
                ahead = waiting_work(
                    db,
                    BEFORE,
                    lane=rows.LANE_RANKS[job.lane],
                    priority=job.priority,
                    position=job.position,
                )
                position = 1 + sum(ahead.values())
            models = {*(each.model for each in ahead), job.params.runs_on, *(each.params.runs_on for each in running)}
            pace = pace_of(db, models)
        if job.state is State.RUNNING:
            beside = [each for each in running if each.worker == job.worker and each.id != job.id]
            return None, estimates.finish_times([job, *beside], (), pace, 1, [job.params.runs_on]).get(job.id)
        ahead[Work.of(job.params)] = ahead.get(Work.of(job.params), 0) + 1
        return position, estimates.total(running, ahead, pace, len(hands), hands)

    def places(self, asked: Sequence[Job]) -> dict[str, tuple[int | None, float | None]]:
        """What ``place`` says, of many jobs by id. One walk along the queue, however long the list."""
        if len(asked) <= FEW:
            return {job.id: self.place(job) for job in asked}
        left = {job.id: job for job in asked if job.state is State.QUEUED}
        places: dict[str, tuple[int | None, float | None]] = {
            job.id: self.place(job) for job in asked if job.state is not State.QUEUED
        }
        with self._database.read() as db:
            running = jobs(db, RUNNING)
            hands = hands_of([rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            models = [row[0] for row in db.execute("SELECT DISTINCT model FROM jobs WHERE state = 'queued'").fetchall()]
            pace = pace_of(db, {*models, *(job.params.runs_on for job in running)})
            line = db.execute(f"SELECT id, model, kind, pixels, steps FROM {QUEUED} {ORDER}")
            ahead: Counter[Work] = Counter()
            for position, (job_id, *work) in enumerate(line, start=1):
                if not left:
                    break
                ahead[Work(*work)] += 1
                if left.pop(job_id, None):
                    places[job_id] = (position, estimates.total(running, ahead, pace, len(hands), hands))
        return places | dict.fromkeys(left, (None, None))  # started or ended since they were read

    def jobs(
        self, state: State | None = None, batch_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Job]:
        """Jobs, newest first; ``before`` is the last id of the page before. A batch's jobs come in its own order."""
        where, values = [seen()], []
        further = "idx > (SELECT idx FROM jobs WHERE id = ?)" if batch_id else "id < ?"
        for clause, value in (("state = ?", state), ("batch_id = ?", batch_id), (further, before)):
            if value is not None:
                where.append(clause)
                values.append(str(value))
        order = "idx" if batch_id else "id DESC"
        with self._database.read() as db:
            return jobs(db, f"{JOBS} WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?", *values, limit)

    def newest_batches(self, ids: list[str], most: int) -> list[Job]:
        """The first ``most`` jobs of each of these batches, newest batch first."""
        which = (
            f"SELECT * FROM {by_index('jobs', 'jobs_by_batch')} WHERE batch_id = ? AND {seen()} ORDER BY idx LIMIT ?"
        )
        with self._database.read() as db:
            return [job for batch_id in sorted(set(ids), reverse=True) for job in jobs(db, which, batch_id, most)]

    def counts(self, batch_ids: list[str]) -> dict[str, dict[State, int]]:
        """How many jobs of each batch are in each state, read from an index alone; unknown ids are left out."""
        counts: dict[str, dict[State, int]] = {}
        with self._database.read() as db:
            for batch_id, rank, count in db.execute(
                f"SELECT batch_id, list_rank, count(*) FROM {by_index('jobs', 'jobs_listed')} "
                f"WHERE batch_id IN (SELECT id FROM batches WHERE {in_list('id')} AND {seen()}) "
                "GROUP BY batch_id, list_rank",
                {"ids": as_list(batch_ids)},
            ).fetchall():
                counts.setdefault(batch_id, dict.fromkeys(State, 0))[State(RANKS[rank])] = count
        return counts

    def events(self, job_id: str) -> list[Event]:
        """What happened to a job, oldest first."""
        with self._database.read() as db:
            found = db.query(f"SELECT * FROM job_events WHERE job_id = ? AND {VISIBLE} ORDER BY id", [job_id])
            return [rows.event(row) for row in found]

    def events_after(
        self, number: int, job_id: str | None = None, batch_id: str | None = None, limit: int = 500
    ) -> list[tuple[int, Event]]:
        """Events with their numbers, oldest first: of a job, of a batch's jobs, or of all."""
        which = ""
        if job_id is not None:
            which = "job_id = :job_id AND "
        elif batch_id is not None:
            # From the batch's first event on, along the events: a long history before it costs nothing.
            which = (
                "EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id AND batch_id = :batch_id) AND id >= coalesce("
                "(SELECT min(first.id) FROM job_events AS first JOIN jobs ON jobs.id = first.job_id "
                "WHERE jobs.batch_id = :batch_id AND jobs.idx = 0), 0) AND "
            )
        values: dict[str, str | int | None] = {"number": number, "job_id": job_id, "batch_id": batch_id, "limit": limit}
        with self._database.read() as db:
            found = db.query(
                f"SELECT * FROM job_events WHERE {which}id > :number AND {VISIBLE} ORDER BY id LIMIT :limit", values
            )
            return [(row["id"], rows.event(row)) for row in found]

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        """A batch, and how many of its jobs are in each state. Raises NotFound."""
        with self._database.read() as db:
            for row in db.query(f"SELECT * FROM batches WHERE id = ? AND {seen()}", [batch_id]):
                counted = dict(
                    db.execute(
                        f"SELECT list_rank, count(*) FROM {by_index('jobs', 'jobs_listed')} WHERE batch_id = ? "
                        "GROUP BY list_rank",
                        [batch_id],
                    ).fetchall()
                )
                return rows.batch(row), {state: counted.get(RANKS.index(state), 0) for state in State}
            raise missing(db, "batch", batch_id)

    def batch_of_key(self, idempotency_key: str) -> str | None:
        with self._database.read() as db:
            return db.scalar("SELECT id FROM batches WHERE idempotency_key = :key", key=scoped(idempotency_key))

    def unfinished(self, job_ids: list[str]) -> list[str]:
        """Those of the jobs that have not ended."""
        ended = ", ".join(f"'{state}'" for state in sorted(FINAL))
        with self._database.read() as db:
            found = db.execute(
                f"SELECT id FROM jobs WHERE {in_list('id')} AND state NOT IN ({ended}) AND {seen()}",
                {"ids": as_list(job_ids)},
            )
            return [row[0] for row in found.fetchall()]

    def reports(self, slot: str, floor: float) -> list[tuple[Job, str, float]]:
        """The jobs that this slot runs: each with the time of its last report, and the seconds of silence it may take.

        These are ``floor``, or STALL_STEPS times what a step of the job usually takes, if that is more.
        """
        with self._database.read() as db:
            found = list(db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [slot]))
            running = [(rows.job(row), str(row["reported_at"])) for row in found]
            pace = pace_of(db, {job.params.runs_on for job, _ in running})
        # those of one pass make their steps together, and each has its share of their time
        steps = [len(running) * (pace.seconds(Work.of(job.params)) or 0.0) / job.params.steps for job, _ in running]
        return [(job, at, max(floor, STALL_STEPS * step)) for (job, at), step in zip(running, steps, strict=True)]

    def seconds(self, work: Mapping[Work, int]) -> float | None:
        """Seconds that so many pictures take the workers there are; None while something is not known."""
        with self._database.read() as db:
            hands = hands_of([rows.worker(row) for row in db.query("SELECT * FROM workers ORDER BY slot")])
            return estimates.total((), work, pace_of(db, {each.model for each in work}), len(hands), hands)

    def shares(self, params: Params) -> list[Share]:
        """What such a picture took by the number of pictures in its pass."""
        with self._database.read() as db:
            return pace_of(db, [params.runs_on]).shares.get(Work.of(params), [])

    def expected(self, params: Params, loaded: str, together: int = 1) -> float | None:
        """Seconds that a picture of a pass takes a worker that has ``loaded`` in memory, its model's load included."""
        with self._database.read() as db:
            pace = pace_of(db, [params.runs_on])
        each = pace.seconds(Work.of(params), together)
        return None if each is None else each + pace.load(params.runs_on, loaded)


def hands_of(workers: Sequence[Worker]) -> list[str]:
    """The models that the workers have loaded, one for each that works; of nobody, for estimates, one with none."""
    return [worker.model for worker in workers if worker.status != "stopped"] or [""]


def seconds_until(now: datetime, opens: Mapping[int, str | None]) -> dict[int, float]:
    return {gate: (datetime.fromisoformat(at) - now).total_seconds() for gate, at in opens.items() if at}


def waiting_jobs(db: Transaction, line: QueueOrder, loaded: str, count: int) -> list[Job]:
    """The first jobs of the line as they will run, then what is held back, in plain order."""
    due = line.upcoming(loaded, count)
    found = {job.id: job for job in jobs(db, f"{JOBS} WHERE {in_list('id', '?')}", as_list(due))}
    shown = [found[job_id] for job_id in due]
    if len(shown) < count:
        rest = jobs(db, f"SELECT * FROM {QUEUED} {ORDER} LIMIT ?", count + len(shown))
        shown += [job for job in rest if job.id not in found]
    return shown[:count]


def jobs(db: Transaction, sql: str, *values: str | int) -> list[Job]:
    return [rows.job(row) for row in db.query(sql, list(values))]
