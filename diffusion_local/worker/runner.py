"""One job's way through a worker: claim, load, denoise, save, settle."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable

from diffusion_local import disk
from diffusion_local.dispatch import Dispatch, OutputTerms
from diffusion_local.domain import MAX_TRIES, Failure, Job, Kind
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
from diffusion_local.models.catalog import Catalog, Model
from diffusion_local.models.digests import Digests
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.worker.inputs import Inputs
from diffusion_local.worker.ladder import Ladder
from diffusion_local.worker.reporting import DATABASE_PAUSE, Reporter
from diffusion_local.worker.saving import Saver
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

FIRST_BACKOFF = 10.0  # seconds, doubled at each further try
PAUSED_UNLOAD = 60.0  # seconds; a long pause frees the device's memory
IDLE_LOOK_SECONDS = 2.0  # an idle worker finds a job that nobody rang for
WAIT_SECONDS = 0.25  # of one wait for a ring: the most that an idle worker takes to stop


class Runner:
    """Runs the jobs of one slot. Denoising happens on the calling thread; saving overlaps the next job's denoising."""

    def __init__(
        self,
        dispatch: Dispatch,
        terms: OutputTerms,
        engine: Engine,
        catalog: Catalog,
        stop: Stop,
        *,
        inputs: Inputs | None = None,
        memory: str = "auto",
        idle_unload: float = 600.0,
    ) -> None:
        """``catalog`` has the models of this machine, ``inputs`` the sources that the engine opens. ``memory`` is the
        setting; a model is taken out of memory after ``idle_unload`` idle seconds.
        """
        self._dispatch = dispatch
        self._engine = engine
        self._catalog = catalog
        self._stop = stop
        self._inputs = inputs or Inputs(dispatch)
        self._idle_unload = idle_unload
        self._unsettled: list[tuple[Job, DatabaseProblem, bool]] = []
        self._reporter = Reporter(dispatch, stop, terms.preview_every)
        self._saver = Saver(dispatch, terms, Digests(catalog.shelf), stop.wanted, self._settle)
        self._ladder = Ladder(engine, dispatch.fits, dispatch.learn, memory)
        self._model: Model | None = None
        self._worked_at = time.monotonic()
        self._load_seconds = 0.0

    def serve(self) -> None:
        """Work until told to stop: at once, at each ring, and every IDLE_LOOK_SECONDS."""
        due = float("-inf")
        while not self._stop.wanted.is_set():
            if time.monotonic() >= due or self._dispatch.wait(WAIT_SECONDS):
                self.work_off()
                due = time.monotonic() + IDLE_LOOK_SECONDS

    def work_off(self) -> None:
        """Run what is due until nothing is, or until told to stop."""
        busy = False
        try:
            while (
                not self._stop.wanted.is_set()
                and self._give_back_unsettled()
                and self._dispatch.ready()
                and (jobs := self._dispatch.claim(self._engine.loaded))
            ):
                if not busy:
                    busy = True
                    self._tell("busy", self._engine.loaded)
                for job in jobs:
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
            self._dispatch.tell(status, model, free)

    def _patience(self) -> float:
        """Idle seconds after which the model is taken out of memory."""
        return min(PAUSED_UNLOAD, self._idle_unload) if self._dispatch.paused() else self._idle_unload

    def run(self, job: Job) -> None:
        """Make one job's picture. Whatever happens, the job is settled, or given back once the database is there."""
        made: list[Picture] = []
        self._load_seconds = 0.0
        expected = self._expected(job)
        started = time.monotonic()
        if self._settle(job, lambda: made.append(self._make(job))):
            # 3. Save on the other thread.
            run = time.monotonic() - started - self._load_seconds
            measured = JobTimings(run, self._load_seconds, expected, str(made[0].facts.get("rung", "")))
            self._saver.save(job, made[0], measured)
            if job.crashes:  # a suspect is settled alone, so that the crash of another is not counted as its own
                self._saver.wait()

    def _expected(self, job: Job) -> float | None:
        try:
            return self._dispatch.expected(job.params, self._engine.loaded)
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
                    self._dispatch.requeue(job.claim, "the database could not be written")
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
            for job in self._dispatch.running():
                if job.id not in known:
                    self._dispatch.requeue(job.claim, "the database could not be written")

    def close(self) -> None:
        self._saver.close()
        try:
            self._give_back_unsettled()
        except DatabaseProblem as problem:  # the next holder of the slot recovers them
            log.error("%s", problem)
            with contextlib.suppress(DatabaseProblem):
                self._dispatch.give_back([job.claim for job, _, _ in self._unsettled])
        self._reporter.close()

    def _make(self, job: Job) -> Picture:
        params, began = job.params, 0.0
        self._inputs.fetch(job)

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
                with disk.explained():
                    work()
                return True
            except Stopped as stopped:
                if stopped.reason == "cancel":
                    self._dispatch.stop(job.claim)
                else:
                    self._dispatch.requeue(job.claim, message("event_given_back", reason=stopped.reason))
                log.info("%s", stopped, extra={"job": job.id})
            except EngineError as error:
                if isinstance(error, DeviceLost):
                    self._stop.request()  # the supervisor starts a new process, which has a sound device
                if error.transient and job.tries + 1 < MAX_TRIES:
                    self._try_later(job, error)
                else:
                    self._dispatch.fail(job.claim, Failure(error.kind, error.message, traceback.format_exc()))
                    log.warning("failed (%s): %s", error.kind, error.message, extra={"job": job.id})
            except (StorageProblem, DatabaseProblem) as problem:
                self._give_back(job, problem)
            except LostClaim:
                raise
            except Exception as bug:
                fault = message("program_fault", kind=type(bug).__name__, error=bug)
                self._dispatch.fail(job.claim, Failure("internal_error", fault, traceback.format_exc()))
                log.exception("failed (internal_error)", extra={"job": job.id})
        except DatabaseProblem as problem:
            self._unsettled.append((job, problem, self._dispatch.sound()))
            raise
        except LostClaim:
            log.warning("the claim was lost; the job is as others left it", extra={"job": job.id})
        return False

    def _try_later(self, job: Job, error: EngineError) -> None:
        pause = FIRST_BACKOFF * 2**job.tries
        note = message("event_error", kind=error.kind, problem=error.message)
        self._dispatch.requeue(job.claim, note, pause, tries=1)
        words = "%s; again in %.0f s (try %d of %d)"
        log.warning(words, error, pause, job.tries + 2, MAX_TRIES, extra={"job": job.id})

    def _give_back(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """After a fault of the storage: one that lasts is everybody's, holds the queue and counts for nobody."""
        if self._dispatch.sound():
            self._count_fault(job, problem)
        else:
            self._dispatch.requeue(job.claim, problem.message)

    def _count_fault(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """A fault that only this job meets: it is tried again after a pause, and fails at MAX_TRIES of them."""
        if job.faults + 1 < MAX_TRIES:
            pause = FIRST_BACKOFF * 2**job.faults
            note = message("event_error", kind=problem.code, problem=problem.message)
            self._dispatch.requeue(job.claim, note, pause, faults=1)
            words = "%s; again in %.0f s (fault %d of %d)"
            log.warning(words, problem, pause, job.faults + 1, MAX_TRIES, extra={"job": job.id})
        else:
            kind = problem.code if isinstance(problem, StorageProblem) else StorageProblem.code
            detail = "".join(traceback.format_exception(problem))
            self._dispatch.fail(job.claim, Failure(kind, problem.message, detail))
            log.warning("failed (%s): %s", kind, problem, extra={"job": job.id})
