"""The jobs table's verbs. With ``recover`` beside it, ``_move`` is the only writer of a job's state."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from diffusion_local.db import rows
from diffusion_local.db.access import ruled, seen
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.db.rows import missing
from diffusion_local.domain import (
    TRANSITIONS,
    Batch,
    Claim,
    Failure,
    Flags,
    Image,
    Job,
    Kind,
    Lane,
    Params,
    State,
    new_job,
    utc_now,
    utc_text,
)
from diffusion_local.errors import LostClaim
from diffusion_local.messages import encoded, known, message
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.queue.order import RIPE, RIPEN, OrderRules, QueueOrder
from diffusion_local.queue.submission import Lot, digest, insert


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a person means: by id, by batch, or every one there is."""

    ids: tuple[str, ...] = ()
    batch_id: str | None = None
    everything: bool = False

    def where(self) -> tuple[str, dict[str, Any]]:
        """A literal WHERE and its values; what whoever acts may not change is left out."""
        which, values = self._named()
        return f"{which} AND {ruled()}", values

    def _named(self) -> tuple[str, dict[str, Any]]:
        if self.ids:
            return in_list("id"), {"ids": as_list(self.ids)}
        if self.batch_id:
            return "batch_id = :batch_id", {"batch_id": self.batch_id}
        return ("true", {}) if self.everything else ("false", {})


#: A job that took down this many workers is failed, so that the rest of the queue runs.
CRASH_LIMIT = 2

#: A job never waits longer for another try; see FIRST_BACKOFF of the runner.
LONGEST_PAUSE = timedelta(minutes=5)

#: Values of `paused`, of the queue and of a batch: open; running pictures are finished; they are given back at once.
OPEN, FINISH, GIVE_BACK = 0, 1, 2

INTERACTIVE = rows.LANE_RANKS[Lane.INTERACTIVE]
OPEN_QUEUE = f"SELECT paused = {OPEN} AND blocked = '' FROM queue"
WANTED = (
    f"cancel_requested, (SELECT paused FROM queue) = {GIVE_BACK} "
    f"OR (SELECT paused FROM batches WHERE batches.id = batch_id) = {GIVE_BACK} AS give_back"
)
JOB = "SELECT * FROM jobs WHERE id = ?"
CLAIMED = "AND worker = :worker AND attempt = :attempt"
BACK = ", worker = NULL, step = 0, phase = ''"
ENDED = ", worker = NULL, phase = '', not_before = NULL, finished_at = :now"


class JobStore:
    """Every change of a job's row."""

    def __init__(self, database: Database, rules: OrderRules | None = None) -> None:
        self._database = database
        self._rules = rules or OrderRules()

    # -- a person's verbs ------------------------------------------------------------------------------------------

    def insert_batch(
        self, batch: Batch, jobs: Iterable[Job], idempotency_key: str | None, max_queued: int, request: str = ""
    ) -> tuple[str, list[str]]:
        """Store a batch with its jobs in one transaction; (batch id, job ids).

        With an idempotency key that was seen before nothing is stored, and the first submit's ids come back.
        With ``request``, a digest of what was asked for, the jobs may be an iterator: they are taken one by one.
        Raises QueueBlocked, QueueFull, and Conflict if the key came with another request then.
        """
        [stored] = self.insert_batches([(batch, jobs, idempotency_key, request)], max_queued)
        return stored

    def insert_batches(self, lots: Sequence[Lot], max_queued: int) -> list[tuple[str, list[str]]]:
        """The same for several batches with their keys and requests: all of them or none."""
        asked = [(batch, jobs, key, request or (digest(jobs) if key else "")) for batch, jobs, key, request in lots]
        with self._database.write() as db:
            return [insert(db, *lot, max_queued) for lot in asked]

    def cancel(self, selection: Selection) -> list[str]:
        """End what waits and flag what runs; ids of the jobs this touched. A job that has ended is left as it is."""
        where, values = selection.where()
        now = utc_now()
        with self._database.write() as db:
            ended = self._move(db, "cancel", f"AND {where}", ENDED + ", note = ''", now=now, **values)
            flagged = db.query(
                f"UPDATE jobs SET cancel_requested = 1 WHERE state = 'running' AND {where} RETURNING id", values
            )
            return [job.id for job in ended] + [row["id"] for row in flagged]

    def get(self, job_id: str) -> Job:
        with self._database.read() as db:
            for row in db.query(f"SELECT * FROM jobs WHERE id = ? AND {seen()}", [job_id]):
                return rows.job(row)
            raise missing(db, "job", job_id)

    # -- a worker's verbs ------------------------------------------------------------------------------------------

    def claim_next(self, worker: str, loaded: str = "") -> Job | None:
        """Take the job that is due next, or None."""
        return next(iter(self.claim(worker, loaded)), None)

    def claim(
        self, worker: str, loaded: str = "", most: int = 1, beside: Claim | None = None, urgent: bool = False
    ) -> list[Job]:
        """Take the job that is due next, with up to ``most`` - 1 that one pass could make with it; with ``beside``, up
        to ``most`` that one pass could make with that claim's job; with ``urgent``, of the interactive lane only.
        ``loaded`` is the model that the worker has in memory.

        The order is the line's (see ``queue.order``). Left out: a paused or blocked queue, held jobs, those whose
        `not_before` is still to come, and those outside their window. Raises LostClaim.
        """
        now = utc_now()
        moment = datetime.fromisoformat(now)
        pauses = {"now": now, "latest": utc_text(moment + LONGEST_PAUSE)}
        with self._database.read() as db:  # an idle look must not take the write lock
            if not db.scalar(OPEN_QUEUE):
                return []
            if not QueueOrder(db, moment, self._rules).any_due() and db.scalar(RIPE, **pauses) is None:
                return []
        taken: list[Job] = []
        with self._database.write() as db:
            if not db.scalar(OPEN_QUEUE):
                return []
            if db.scalar(RIPE, **pauses):
                for ripen in RIPEN:
                    db.execute(ripen, pauses)
            line = QueueOrder(db, moment, self._rules)
            first = None if beside is None else held_by(db, beside)
            if first is None and (job_id := line.next(loaded, INTERACTIVE if urgent else None)):
                taken += self._take(db, worker, job_id, now)
                first = taken[0]
            while first and len(taken) < most and (job_id := line_beside(db, line, first)):
                taken += self._take(db, worker, job_id, now)
        return taken

    def urgent(self) -> bool:
        """Whether a job of the interactive lane is due."""
        with self._database.read() as db:
            moment = datetime.fromisoformat(utc_now())
            return bool(db.scalar(OPEN_QUEUE)) and QueueOrder(db, moment, self._rules).any_due_of(INTERACTIVE)

    def _take(self, db: Transaction, worker: str, job_id: str, now: str) -> list[Job]:
        return self._move(
            db,
            "claim",
            "AND id = :id",
            ", worker = :worker, attempt = attempt + 1, step = 0, phase = '', note = '', not_before = NULL, "
            "started_at = :now, reported_at = :now",
            now=now,
            worker=worker,
            id=job_id,
        )

    def flags(self, claim: Claim) -> Flags:
        """What a person wants of a running job. Raises LostClaim."""
        return there(self.flags_of([claim]))

    def flags_of(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """The same of several; None for each whose claim is lost."""
        with self._database.read() as db:
            query = f"SELECT {WANTED} FROM jobs WHERE id = :id AND state = 'running' {CLAIMED}"
            return [told(db.query(query, values_of(claim))) for claim in claims]

    def report(self, claim: Claim, step: int, phase: str = "") -> Flags:
        """Say how far the job is, and hear what a person wants of it. Raises LostClaim."""
        return there(self.report_all([(claim, step, phase)]))

    def report_all(self, reports: Sequence[tuple[Claim, int, str]]) -> list[Flags | None]:
        """The same of several, in one transaction; None for each whose claim is lost."""
        now = utc_now()
        update = (
            "UPDATE jobs SET step = :step, phase = :phase, phase_json = :phase_json, reported_at = :now "
            f"WHERE id = :id AND state = 'running' {CLAIMED} RETURNING {WANTED}"
        )
        with self._database.write() as db:
            return [
                told(
                    db.query(
                        update,
                        values_of(claim) | {"step": step, "phase": phase, "phase_json": encoded(phase), "now": now},
                    )
                )
                for claim, step, phase in reports
            ]

    def finish(self, claim: Claim, image: Image, measured: JobTimings | None = None) -> None:
        """The picture's row and `done`, in one transaction. Its file must be there already. Raises LostClaim."""
        taken = rows.measured_row(measured) if measured else {}
        ended = ENDED + ", step = :step, cancel_requested = 0" + "".join(f", {name} = :{name}" for name in taken)
        with self._database.write() as db:
            owner = self._settle(db, "finish", claim, ended, step=image.params.steps, **taken).owner
            db.insert("images", rows.image_row(image) | {"owner": owner})

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job with an error. Raises LostClaim."""
        columns = rows.failure_row(failure)
        with self._database.write() as db:
            self._settle(db, "fail", claim, ENDED + ", cancel_requested = 0" + rows.setting(columns), **columns)

    def stop(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LostClaim."""
        with self._database.write() as db:
            self._settle(db, "stop", claim, ENDED)

    def requeue(self, claim: Claim, note: str, not_before: str | None = None, tries: int = 0, faults: int = 0) -> State:
        """Give the job back to the queue, in its old place. A job that was to be cancelled is cancelled instead.

        ``tries`` and ``faults`` are added to the counts of that name, ``not_before`` holds it back until then.
        Raises LostClaim.
        """
        noted = rows.note_row(note)
        with self._database.write() as db:
            values = values_of(claim)
            if db.scalar(f"SELECT cancel_requested FROM jobs WHERE id = :id AND state = 'running' {CLAIMED}", **values):
                return self._settle(db, "stop", claim, ENDED).state
            return self._settle(
                db,
                "requeue",
                claim,
                BACK + ", not_before = :until, tries = tries + :tries, faults = faults + :faults" + rows.setting(noted),
                **noted,
                until=not_before,
                tries=tries,
                faults=faults,
            ).state

    def held(self, claim: Claim) -> Job:
        """The running job of a claim. Raises LostClaim."""
        with self._database.read() as db:
            return held_by(db, claim)

    def running(self, worker: str) -> list[Job]:
        """The jobs that a worker holds claims on."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [worker])
            return [rows.job(row) for row in found]

    def recover(self, worker: str, failure: Failure, given_back: Collection[Claim] = ()) -> list[Job]:
        """Settle what a dead worker left running; the jobs as they are now.

        The caller holds the worker's slot lock, so nobody runs them. A job goes back to its place; it ends as
        cancelled if that was asked for, and as failed, with ``failure``, once it took down CRASH_LIMIT workers. Claims
        that the worker gave up itself are no losses.
        """
        settled = []
        with self._database.write() as db:
            orphans = [
                rows.job(r) for r in db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [worker])
            ]
            for job in orphans:
                if job.claim in given_back:
                    verb = "stop" if job.cancel_requested else "requeue"
                    sets = ENDED if job.cancel_requested else BACK
                    note = rows.note_row(message("event_given_back", reason="shutdown"))
                    settled.append(self._settle(db, verb, job.claim, sets + rows.setting(note), **note))
                    continue
                note = rows.note_row(note_of(failure.kind))
                counted = ", crashes = crashes + 1" + rows.setting(note)
                if job.cancel_requested:
                    settled.append(self._settle(db, "stop", job.claim, ENDED + counted, **note))
                elif job.crashes + 1 < CRASH_LIMIT:
                    settled.append(self._settle(db, "requeue", job.claim, BACK + counted, **note))
                else:
                    why = rows.failure_row(failure)
                    sets = ENDED + counted + rows.setting(why)
                    settled.append(self._settle(db, "fail", job.claim, sets, **note, **why))
        return settled

    # -- the one writer of state -----------------------------------------------------------------------------------

    def _settle(self, db: Transaction, verb: str, claim: Claim, sets: str, **values: Any) -> Job:
        moved = self._move(db, verb, f"AND id = :id {CLAIMED}", sets, now=utc_now(), **values_of(claim), **values)
        if not moved:
            raise LostClaim
        return moved[0]

    @staticmethod
    def _move(db: Transaction, verb: str, also: str, sets: str, **values: Any) -> list[Job]:
        """Jobs moved by ``verb``. ``also`` and ``sets`` are literals of this file, never input."""
        start, end, _ = TRANSITIONS[verb]
        moved = db.query(
            f"UPDATE jobs SET state = '{end}'{sets} WHERE state = '{start}' {also} RETURNING *",
            values,
        )
        return [rows.job(row) for row in moved]


def held_by(db: Transaction, claim: Claim) -> Job:
    query = f"SELECT * FROM jobs WHERE id = :id AND state = 'running' {CLAIMED}"
    for row in list(db.query(query, values_of(claim))):
        return rows.job(row)
    raise LostClaim


def line_beside(db: Transaction, line: QueueOrder, first: Job) -> str | None:
    """The next job for a pass with a job that was taken."""

    def suits(job_id: str) -> bool:
        return go_together(first, next(rows.job(row) for row in db.query(JOB, [job_id])))

    return line.beside(rows.LANE_RANKS[first.lane], first.priority, first.params.model, suits)


def go_together(first: Job, other: Job) -> bool:
    """Whether one pass could make both: jobs of the batch lane that differ in prompts and seed only. Alone run: a job
    that took down a worker, an upscale, and a picture that is made again in its old place."""
    one, two = (replace(job.params, prompt="", negative="", seed=0) for job in (first, other))
    alike = one == two and one.kind is not Kind.UPSCALE and not one.place
    return alike and all(job.lane is Lane.BATCH and not job.crashes for job in (first, other))


def values_of(claim: Claim) -> dict[str, Any]:
    return {"id": claim.job_id, "worker": claim.worker, "attempt": claim.attempt}


def told(wanted: Iterable[dict[str, Any]]) -> Flags | None:
    for row in list(wanted):  # to the end: an unread RETURNING is not committed
        return Flags(bool(row["cancel_requested"]), bool(row["give_back"]))
    return None


def there(answers: Sequence[Flags | None]) -> Flags:
    """The only answer. Raises LostClaim where there is none."""
    [flags] = answers
    if flags is None:
        raise LostClaim
    return flags


def new_jobs(batch: Batch, params: Sequence[Params], priority: int = 0, from_jobs: Sequence[str] = ()) -> list[Job]:
    """Queued jobs of a batch, one for each Params."""
    return [
        new_job(batch, index, each, priority, from_jobs[index] if from_jobs else None)
        for index, each in enumerate(params)
    ]


def note_of(kind: str) -> str:
    """A kind of failure as the note of an event."""
    return message(f"note_{kind}") if known(f"note_{kind}") else kind.replace("_", " ")
