"""One job's way through a worker: claim, load, denoise, save, settle."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from diffusion_local.catalog import Model
from diffusion_local.compose import House
from diffusion_local.domain import MAX_TRIES, Failure, Job, Kind, utc_text
from diffusion_local.engine import Engine, OnStep, Picture
from diffusion_local.errors import (
    DatabaseProblem,
    DeviceLost,
    EngineError,
    LostClaim,
    ModelUnavailable,
    NotFound,
    Stopped,
    StorageProblem,
)
from diffusion_local.messages import message
from diffusion_local.store import faults
from diffusion_local.store.paces import Measured
from diffusion_local.worker import slots
from diffusion_local.worker.ladder import Ladder
from diffusion_local.worker.reporting import DATABASE_PAUSE, Reporter
from diffusion_local.worker.saving import Saver
from diffusion_local.worker.stopping import Stop
from diffusion_local.worker.storage import Storage

log = logging.getLogger(__name__)

FIRST_BACKOFF = timedelta(seconds=10)  # doubled at each further try
PAUSED_UNLOAD = 60.0  # seconds; a long pause frees the device's memory


class Runner:
    """Runs the jobs of one slot. Denoising happens on the calling thread; saving overlaps the next job's denoising."""

    def __init__(self, house: House, slot: str, engine: Engine, stop: Stop) -> None:
        self._house = house
        self._slot = slot
        self._settings = house.settings
        self._jobs = house.jobs
        self._control = house.control
        self._view = house.view
        self._workers = house.workers
        self._files = house.files
        self._catalog = house.catalog
        self._engine = engine
        self._stop = stop
        self._unsettled: list[tuple[Job, DatabaseProblem, bool]] = []
        self._storage = Storage(house, stop.wanted)
        self._reporter = Reporter(house, stop)
        self._saver = Saver(house, self._storage, stop.wanted, self._settle)
        self._ladder = Ladder(engine, house.fits, house.settings.memory)
        self._model: Model | None = None
        self._worked_at = time.monotonic()
        self._load_seconds = 0.0

    def work_off(self) -> None:
        """Run what is due until nothing is, or until told to stop."""
        busy = False
        try:
            while (
                not self._stop.wanted.is_set()
                and self._give_back_unsettled()
                and self._storage.may_begin()
                and (job := self._jobs.claim_next(self._slot, self._engine.loaded))
            ):
                if not busy:
                    busy = True
                    self._tell("busy", self._engine.loaded)
                self.run(job)
            if busy:
                self._saver.wait()
                self._worked_at = time.monotonic()
                self._tell("idle", self._engine.loaded, self._engine.free())
            elif self._engine.loaded and time.monotonic() - self._worked_at > self._patience():
                self._engine.unload()
                self._tell("idle", free=self._engine.free())
        except DatabaseProblem as problem:
            log.error("the database cannot be used, trying again: %s", problem)
            self._stop.wanted.wait(DATABASE_PAUSE)
            self._settle_forgotten()

    def _tell(self, status: str, model: str = "", free: int | None = None) -> None:
        """Only informs, so nothing depends on it."""
        with contextlib.suppress(DatabaseProblem):
            self._workers.tell(self._slot, status, model, free)

    def _patience(self) -> float:
        """Idle seconds after which the model is taken out of memory."""
        return min(PAUSED_UNLOAD, self._settings.idle_unload) if self._control.closed() else self._settings.idle_unload

    def run(self, job: Job) -> None:
        """Make one job's picture. Whatever happens, the job is settled, or given back once the database is there."""
        made: list[Picture] = []
        self._load_seconds = 0.0
        expected = self._expected(job)
        started = time.monotonic()
        if self._settle(job, lambda: made.append(self._make(job))):
            # 3. Save on the other thread.
            run = time.monotonic() - started - self._load_seconds
            measured = Measured(run, self._load_seconds, expected, str(made[0].facts.get("rung", "")))
            self._saver.save(job, made[0], measured, self._reporter.forget)
            if job.crashes:  # a suspect is settled alone, so that the crash of another is not counted as its own
                self._saver.wait()
        else:
            self._reporter.forget(job)

    def _expected(self, job: Job) -> float | None:
        try:
            return self._view.expected(job.params, self._engine.loaded)
        except DatabaseProblem:
            return None

    def _give_back_unsettled(self) -> bool:
        """Jobs whose end could not be written are made again, now that the database may be there. Returns True.

        A fault that only this job met is counted: so a job cannot come back without end.
        """
        while self._unsettled:
            job, problem, own = self._unsettled.pop()
            try:
                if own:
                    self._count_fault(job, problem)
                else:
                    self._jobs.requeue(job.claim, "the database could not be written")
            except LostClaim:
                continue
            except DatabaseProblem:
                self._unsettled.append((job, problem, own))
                raise
        return True

    def _settle_forgotten(self) -> None:
        """A claim may have been written although the database then reported a fault: nobody here runs that job."""
        with contextlib.suppress(DatabaseProblem, LostClaim):
            known = {job.id for job, _, _ in self._unsettled} | self._saver.unsaved
            for job in self._jobs.running(self._slot):
                if job.id not in known:
                    self._jobs.requeue(job.claim, "the database could not be written")

    def close(self) -> None:
        self._saver.close()
        try:
            self._give_back_unsettled()
        except DatabaseProblem as problem:  # the next holder of the slot recovers them
            log.error("%s", problem)
            slots.note_given_back(self._house, self._slot, [job.claim for job, _, _ in self._unsettled])
        self._reporter.close()

    def _make(self, job: Job) -> Picture:
        params, began = job.params, 0.0

        def on_progress(share: float) -> None:
            nonlocal began
            began = began or time.monotonic()
            self._reporter.report(job, 0, message("phase_loading", model=params.model, share=share))
            self._tell("loading" if share < 1 else "busy", params.model)

        def on_steps() -> OnStep:
            self._load_seconds = time.monotonic() - began if began else self._load_seconds
            return self._reporter.on_step(job)

        def say(words: str) -> None:
            self._reporter.report(job, 0, words)

        if params.kind is Kind.UPSCALE:  # it needs no model
            return self._engine.generate(params, self._reporter.on_step(job))
        # 1. Know the model; one that is in memory needs no look at its files.
        if self._model is None or self._model.id != params.model or self._engine.loaded != params.model:
            try:
                self._model = self._catalog.get(params.model)
            except NotFound as error:
                raise ModelUnavailable(message("model_left", problem=error.message)) from None
            if self._engine.room.type:  # while it is loaded, from the same files
                path = self._model.path
                self._saver.hash(params.model, lambda digests: digests.of(path))
        # 2. Have it in memory and denoise, with a report after each step; a smaller way of holding it if need be.
        return self._ladder.make(self._model, params, on_progress, on_steps, say)

    def _settle(self, job: Job, work: Callable[[], None]) -> bool:
        """Do the work, and turn whatever it raises into the job's transition: the one place where outcomes are decided.

        True if the work was done.
        """
        try:
            try:
                with faults.explained():
                    work()
                return True
            except Stopped as stopped:
                if stopped.reason == "cancel":
                    self._jobs.stop(job.claim)
                else:
                    self._jobs.requeue(job.claim, message("event_given_back", reason=stopped.reason))
                log.info("%s", stopped, extra={"job": job.id})
            except EngineError as error:
                if isinstance(error, DeviceLost):
                    self._stop.request()  # the supervisor starts a new process, which has a sound device
                if error.transient and job.tries + 1 < MAX_TRIES:
                    self._try_later(job, error)
                else:
                    self._jobs.fail(job.claim, Failure(error.kind, error.message, traceback.format_exc()))
                    log.warning("failed (%s): %s", error.kind, error.message, extra={"job": job.id})
            except (StorageProblem, DatabaseProblem) as problem:
                self._give_back(job, problem)
            except LostClaim:
                raise
            except Exception as bug:
                fault = message("program_fault", kind=type(bug).__name__, error=bug)
                self._jobs.fail(job.claim, Failure("internal_error", fault, traceback.format_exc()))
                log.exception("failed (internal_error)", extra={"job": job.id})
        except DatabaseProblem as problem:
            self._unsettled.append((job, problem, self._storage.sound()))
            raise
        except LostClaim:
            log.warning("the claim was lost; nothing was written", extra={"job": job.id})
        return False

    def _try_later(self, job: Job, error: EngineError) -> None:
        wait = FIRST_BACKOFF * 2**job.tries
        again = utc_text(datetime.now(UTC) + wait)
        self._jobs.requeue(
            job.claim, message("event_error", kind=error.kind, problem=error.message), not_before=again, tries=1
        )
        log.warning("%s; again at %s (try %d of %d)", error, again, job.tries + 2, MAX_TRIES, extra={"job": job.id})

    def _give_back(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """After a fault of the storage: one that lasts is everybody's, holds the queue and counts for nobody."""
        if self._storage.sound():
            self._count_fault(job, problem)
        else:
            self._jobs.requeue(job.claim, self._storage.relative(problem.message))

    def _count_fault(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """A fault that only this job meets: it is tried again after a pause, and fails at MAX_TRIES of them."""
        told = self._storage.relative(problem.message)
        if job.faults + 1 < MAX_TRIES:
            again = utc_text(datetime.now(UTC) + FIRST_BACKOFF * 2**job.faults)
            self._jobs.requeue(
                job.claim, message("event_error", kind=problem.code, problem=told), not_before=again, faults=1
            )
            log.warning(
                "%s; again at %s (fault %d of %d)", told, again, job.faults + 1, MAX_TRIES, extra={"job": job.id}
            )
        else:
            kind = problem.code if isinstance(problem, StorageProblem) else StorageProblem.code
            self._jobs.fail(job.claim, Failure(kind, told, "".join(traceback.format_exception(problem))))
            log.warning("failed (%s): %s", kind, told, extra={"job": job.id})
