"""Operations on the jobs table. Only ``_move`` changes a job's state."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diffusion_local.db import rows, search
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.db.row_access import readable, writable
from diffusion_local.db.rows import not_found
from diffusion_local.domain import (
    TRANSITIONS,
    Batch,
    Claim,
    Failure,
    Flags,
    Image,
    Job,
    Lane,
    State,
    new_job,
    utc_now,
)
from diffusion_local.errors import LostClaim
from diffusion_local.messages import is_known, message, to_json
from diffusion_local.options.table import Params
from diffusion_local.queue import work_hours
from diffusion_local.queue.claims import (
    HELD_BY,
    HOLDS_CLAIM,
    MOST_SLOTS,
    Able,
    Ahead,
    claim_due,
    claim_values,
    delays,
    held_by,
    held_job,
    note_refusal,
    slots_that_refused,
)
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.queue.history import usual_seconds
from diffusion_local.queue.machines import count_picture
from diffusion_local.queue.order import RETRY_DUE, OrderRules, QueueOrder
from diffusion_local.queue.submission import NewBatch, insert_batch, request_digest

#: A job that crashed this many workers fails, so that the rest of the queue can run.
CRASH_LIMIT = 2
REQUEUED_COLUMNS = ", worker = NULL, step = 0, phase = ''"
ENDED_COLUMNS = ", worker = NULL, phase = '', not_before = NULL, finished_at = :now"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of jobs: by id, by batch, or everything."""

    ids: tuple[str, ...] = ()
    batch_id: str | None = None
    everything: bool = False

    def where(self) -> tuple[str, dict[str, Any]]:
        """SQL condition (from literals) and its values; excludes jobs that the actor may not change."""
        which, values = self._condition()
        return f"{which} AND {writable()}", values

    def _condition(self) -> tuple[str, dict[str, Any]]:
        if self.ids:
            return in_list("id"), {"ids": as_list(self.ids)}
        if self.batch_id:
            return "batch_id = :batch_id", {"batch_id": self.batch_id}
        return ("true", {}) if self.everything else ("false", {})


#: `paused` of a queue or batch: open; running jobs finish; running jobs are given back at once.
OPEN, FINISH, GIVE_BACK = 0, 1, 2

INTERACTIVE = rows.LANE_RANKS[Lane.INTERACTIVE]
REQUEST_COLUMNS = (
    f"cancel_requested, (SELECT paused FROM queue) = {GIVE_BACK} "
    f"OR (SELECT paused FROM batches WHERE batches.id = batch_id) = {GIVE_BACK} AS give_back"
)


class JobStore:
    """All changes to jobs."""

    def __init__(self, database: Database, rules: OrderRules | None = None) -> None:
        self._database = database
        self._rules = rules or OrderRules()
        #: Whether the last claim of this process found a job, so that the next one probably does.
        self._found_last = False

    # -- for users -------------------------------------------------------------------------------------------------

    def insert_batch(
        self, batch: Batch, jobs: Iterable[Job], idempotency_key: str | None, max_queued: int, request: str = ""
    ) -> tuple[str, list[str]]:
        """Store a batch with its jobs in one transaction; returns (batch id, job ids).

        If the idempotency key was used before, nothing is stored and the first submit's ids are returned. With
        ``request`` (a digest of the submit) ``jobs`` may be a generator, consumed one by one. Raises QueueBlocked,
        QueueFull, and Conflict if the key was used with another request.
        """
        [stored] = self.insert_batches([(batch, jobs, idempotency_key, request)], max_queued)
        return stored

    def insert_batches(self, batches: Sequence[NewBatch], max_queued: int) -> list[tuple[str, list[str]]]:
        """Store several batches with their idempotency keys and requests, all or none."""
        complete = [
            (batch, jobs, key, request or (request_digest(jobs) if key else ""))
            for batch, jobs, key, request in batches
        ]
        with self._database.write() as db:
            return [insert_batch(db, *batch, max_queued) for batch in complete]

    def cancel(self, selection: Selection) -> list[str]:
        """Cancel queued jobs and flag running ones; returns the ids of the affected jobs. Ended jobs are skipped."""
        where, values = selection.where()
        now = utc_now()
        with self._database.write() as db:
            ended = self._move(db, "cancel", f"AND {where}", ENDED_COLUMNS + ", note = ''", now=now, **values)
            flagged = db.query(
                f"UPDATE jobs SET cancel_requested = 1 WHERE state = 'running' AND {where} RETURNING id", values
            )
            return [job.id for job in ended] + [row["id"] for row in flagged]

    def get(self, job_id: str) -> Job:
        for row in self._database.fetch(f"SELECT * FROM jobs WHERE id = ? AND {readable()}", [job_id]):
            return rows.to_job(row)
        with self._database.read() as db:
            raise not_found(db, "job", job_id)

    # -- for workers -----------------------------------------------------------------------------------------------

    def claim_next(self, worker: str, loaded: str = "") -> Job | None:
        """Claim the next due job, or None."""
        return next(iter(self.claim(worker, loaded)), None)

    def claim(
        self,
        worker: str,
        loaded: str = "",
        most: int = 1,
        beside: Claim | None = None,
        urgent: bool = False,
        able: Able | None = None,
    ) -> list[Job]:
        """Claim the next due job, and up to ``most`` - 1 jobs that fit into the same forward pass.

        With ``beside``: only up to ``most`` jobs that fit into a pass with that claim's job. With ``urgent``: only jobs
        of the interactive lane. ``loaded``: the model in the worker's memory.
        ``able``: which jobs the worker can make; None for all. For the order see ``queue.order``.
        Nothing is claimed from a paused or blocked queue; held jobs, jobs with a later `not_before` and jobs outside
        their window are skipped. Raises LostClaim.
        """
        now = utc_now()
        moment = datetime.fromisoformat(now)
        if not self._found_last:  # an idle poll must not take the write lock
            with self._database.read() as db:
                line = QueueOrder(db, moment, self._rules)
                if not (line.open and (line.any_due() or db.scalar(RETRY_DUE, **delays(now)))):
                    return []
        with self._database.write(patient=True) as db:
            line = QueueOrder(db, moment, self._rules)
            taken = claim_due(
                db, line, self._claimer(db, worker, now), worker, now, Ahead(loaded, able), most, beside, urgent
            )
        self._found_last = bool(taken)
        return taken

    def urgent(self) -> bool:
        """Whether a job of the interactive lane is due."""
        with self._database.read() as db:
            moment = datetime.fromisoformat(utc_now())
            return QueueOrder(db, moment, self._rules).any_due_of(INTERACTIVE)

    def _claimer(self, db: Transaction, worker: str, now: str) -> Callable[[str], list[Job]]:
        """A function that claims a job for a worker."""
        sets = (
            ", worker = :worker, attempt = attempt + 1, step = 0, phase = '', note = '', not_before = NULL, "
            "started_at = :now, reported_at = :now"
        )
        return lambda job_id: self._move(db, "claim", "AND id = :id", sets, now=now, worker=worker, id=job_id)

    def flags(self, claim: Claim) -> Flags:
        """Pending requests to a running job. Raises LostClaim."""
        return only_answer(self.flags_of([claim]))

    def flags_of(self, claims: Sequence[Claim]) -> list[Flags | None]:
        """Pending requests per claim; None for a lost claim."""
        with self._database.read() as db:
            query = f"SELECT {REQUEST_COLUMNS} FROM jobs WHERE id = :id AND state = 'running' {HOLDS_CLAIM}"
            return [read_flags(db.query(query, claim_values(claim))) for claim in claims]

    def report(self, claim: Claim, step: int, phase: str = "") -> Flags:
        """Report a job's progress; returns the pending requests to it. Raises LostClaim."""
        return only_answer(self.report_all([(claim, step, phase)]))

    def report_all(self, reports: Sequence[tuple[Claim, int, str]]) -> list[Flags | None]:
        """Report (claim, step, phase) of several jobs in one transaction; None for a lost claim."""
        now = utc_now()
        update = (
            "UPDATE jobs SET step = :step, phase = :phase, phase_json = :phase_json, reported_at = :now "
            f"WHERE id = :id AND state = 'running' {HOLDS_CLAIM} RETURNING {REQUEST_COLUMNS}"
        )
        with self._database.write(patient=True) as db:
            return [
                read_flags(
                    db.query(
                        update,
                        claim_values(claim) | {"step": step, "phase": phase, "phase_json": to_json(phase), "now": now},
                    )
                )
                for claim, step, phase in reports
            ]

    def finish(
        self,
        claim: Claim,
        image: Image,
        timings: JobTimings | None = None,
        note: str = "",
        ahead: Ahead | None = None,
    ) -> list[Job]:
        """Insert the picture's row and mark the job `done`, in one transaction. The file must already exist.

        ``note`` goes into the job's history. With ``ahead``, the worker's next due job is claimed in the same
        transaction and returned. Raises LostClaim.
        """
        taken = (rows.timings_row(timings) if timings else {}) | (rows.note_row(note) if note else {})
        ended = f"{ENDED_COLUMNS}, step = :step, cancel_requested = 0{rows.set_clauses(taken)}"
        with self._database.write(patient=True) as db:
            job = self._settle(db, "finish", claim, ended, step=image.params.total_steps, **taken)
            db.insert("images", rows.image_row(image) | {"owner": job.owner})
            search.add(db, image.id, image.params.prompt)
            count_picture(db, claim.worker)
            now, jobs = utc_now(), list[Job]()
            if timings:
                work_hours.account(db, claim.worker, job, timings, now, usual_seconds(db, job, timings))
            if ahead is not None:
                line = QueueOrder(db, datetime.fromisoformat(now), self._rules)
                jobs = claim_due(db, line, self._claimer(db, claim.worker, now), claim.worker, now, ahead)
        if ahead is not None:
            self._found_last = bool(jobs)
        return jobs

    def fail(self, claim: Claim, failure: Failure) -> None:
        """End the job as failed. Raises LostClaim."""
        columns = rows.failure_row(failure)
        with self._database.write(patient=True) as db:
            self._settle(
                db, "fail", claim, ENDED_COLUMNS + ", cancel_requested = 0" + rows.set_clauses(columns), **columns
            )

    def stop(self, claim: Claim) -> None:
        """End the job as cancelled. Raises LostClaim."""
        with self._database.write(patient=True) as db:
            self._settle(db, "stop", claim, ENDED_COLUMNS)

    def requeue(self, claim: Claim, note: str, not_before: str | None = None, tries: int = 0, faults: int = 0) -> State:
        """Return the job to its place in the queue, or cancel it if that was requested; returns the new state.

        ``tries`` and ``faults`` are added to the job's counters; it is not claimed again before ``not_before``. Raises
        LostClaim.
        """
        noted = rows.note_row(note)
        with self._database.write(patient=True) as db:
            values = claim_values(claim)
            if db.scalar(
                f"SELECT cancel_requested FROM jobs WHERE id = :id AND state = 'running' {HOLDS_CLAIM}", **values
            ):
                return self._settle(db, "stop", claim, ENDED_COLUMNS).state
            return self._settle(
                db,
                "requeue",
                claim,
                REQUEUED_COLUMNS
                + ", not_before = :until, tries = tries + :tries, faults = faults + :faults"
                + rows.set_clauses(noted),
                **noted,
                until=not_before,
                tries=tries,
                faults=faults,
            ).state

    def pass_on(self, claim: Claim, kind: str, note: str, others: Collection[str]) -> bool:
        """Requeue a job that failed because of this slot's machine, to be tried by one of the slots ``others``.

        Returns False and changes nothing if all of them, or enough slots, have tried it (see ``queue.claims``).
        Raises LostClaim.
        """
        noted = rows.note_row(note)
        with self._database.write(patient=True) as db:
            if held_by(db, claim).cancel_requested:
                return False
            tried = {claim.worker, *slots_that_refused(db, claim.job_id)}
            if len(tried) >= MOST_SLOTS or tried.issuperset(others):
                return False
            note_refusal(db, claim.job_id, claim.worker, kind)
            self._settle(db, "requeue", claim, REQUEUED_COLUMNS + rows.set_clauses(noted), **noted)
            return True

    def of_claim(self, claim: Claim) -> Job:
        """The running job of a claim. Raises LostClaim."""
        return held_job(self._database.fetch(HELD_BY, claim_values(claim)))

    def running(self, worker: str) -> list[Job]:
        """The jobs that a worker holds claims on."""
        with self._database.read() as db:
            found = db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [worker])
            return [rows.to_job(row) for row in found]

    def recover(self, worker: str, failure: Failure, given_back: Collection[Claim] = ()) -> list[Job]:
        """Settle the running jobs of a dead worker; returns them in their new state.

        The caller holds the worker's slot lock, so these jobs do not run. A job returns to its place; it is cancelled
        if that was requested, and fails with ``failure`` once it has crashed CRASH_LIMIT workers. Claims in
        ``given_back`` were released by the worker itself and do not count as crashes.
        """
        settled = []
        with self._database.write(patient=True) as db:
            orphans = [
                rows.to_job(r) for r in db.query("SELECT * FROM jobs WHERE state = 'running' AND worker = ?", [worker])
            ]
            for job in orphans:
                if job.claim in given_back:
                    verb = "stop" if job.cancel_requested else "requeue"
                    sets = ENDED_COLUMNS if job.cancel_requested else REQUEUED_COLUMNS
                    note = rows.note_row(message("event_given_back", reason="shutdown"))
                    settled.append(self._settle(db, verb, job.claim, sets + rows.set_clauses(note), **note))
                    continue
                note = rows.note_row(failure_note(failure.kind))
                counted = ", crashes = crashes + 1" + rows.set_clauses(note)
                if job.cancel_requested:
                    settled.append(self._settle(db, "stop", job.claim, ENDED_COLUMNS + counted, **note))
                elif job.crashes + 1 < CRASH_LIMIT:
                    settled.append(self._settle(db, "requeue", job.claim, REQUEUED_COLUMNS + counted, **note))
                else:
                    why = rows.failure_row(failure)
                    sets = ENDED_COLUMNS + counted + rows.set_clauses(why)
                    settled.append(self._settle(db, "fail", job.claim, sets, **note, **why))
        return settled

    # -- state transitions -------------------------------------------------------------------------------------------

    def _settle(self, db: Transaction, verb: str, claim: Claim, sets: str, **values: Any) -> Job:
        moved = self._move(
            db, verb, f"AND id = :id {HOLDS_CLAIM}", sets, now=utc_now(), **claim_values(claim), **values
        )
        if not moved:
            raise LostClaim
        return moved[0]

    @staticmethod
    def _move(db: Transaction, verb: str, also: str, sets: str, **values: Any) -> list[Job]:
        """Apply the transition ``verb``; returns the moved jobs.

        ``also`` and ``sets`` become part of the SQL, so they must never contain input.
        """
        start, end, _ = TRANSITIONS[verb]
        moved = db.query(
            f"UPDATE jobs SET state = '{end}'{sets} WHERE state = '{start}' {also} RETURNING *",
            values,
        )
        return [rows.to_job(row) for row in moved]


def read_flags(rows_found: Iterable[dict[str, Any]]) -> Flags | None:
    for row in list(rows_found):  # read to the end: SQLite does not commit an unread RETURNING
        return Flags(bool(row["cancel_requested"]), bool(row["give_back"]))
    return None


def only_answer(answers: Sequence[Flags | None]) -> Flags:
    """The flags of a single claim. Raises LostClaim if it is None."""
    [flags] = answers
    if flags is None:
        raise LostClaim
    return flags


def new_jobs(batch: Batch, params: Sequence[Params], priority: int = 0, from_jobs: Sequence[str] = ()) -> list[Job]:
    """Queued jobs of a batch, one per Params."""
    return [
        new_job(batch, index, each, priority, from_jobs[index] if from_jobs else None)
        for index, each in enumerate(params)
    ]


def failure_note(kind: str) -> str:
    """The note of an event for a kind of failure."""
    return message(f"note_{kind}") if is_known(f"note_{kind}") else kind.replace("_", " ")
