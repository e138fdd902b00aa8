"""Runs jobs: claims, loads, denoises, saves and settles. Interactive jobs interrupt passes of the batch lane."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from diffusion_local import disk
from diffusion_local.dispatch import Dispatch, OutputTerms
from diffusion_local.domain import MAX_TRIES, Failure, Job, Lane
from diffusion_local.engine import Engine, Pass
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
from diffusion_local.options.types import Kind
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.worker.claiming import Claiming
from diffusion_local.worker.kept import HeldPassStore
from diffusion_local.worker.ladder import Ladder, PassSizes
from diffusion_local.worker.reporting import DATABASE_PAUSE, PassReporter, Reporter
from diffusion_local.worker.saving import Saver
from diffusion_local.worker.sharing import Sharing
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

FIRST_BACKOFF = 10.0  # seconds before the first retry, doubled for each further one
PAUSED_UNLOAD = 60.0  # seconds; a long pause frees the device's memory
IDLE_POLL_SECONDS = 2.0  # so that an idle worker finds jobs whose ring was lost
TURN_SECONDS = 60.0  # longest interactive work for which a batch pass is held
OWED_SHARE = 0.1  # a resumed pass runs for this share of the time it was held before it may be held again
OWED_FOR_NOTHING = 2.0  # seconds it runs if no interactive job could be claimed after all
WAIT_SECONDS = 0.25  # one wait for a ring; also the longest time that an idle worker takes to stop


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
        inputs: SourcePictures | None = None,
        memory: str = "auto",
        batch_size: str = "auto",
        idle_unload: float = 600.0,
        passes: Path | None = None,
        ahead: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        """``catalog``: models of this machine; ``inputs``: source pictures for the engine; ``memory``, ``batch_size``:
        their settings; ``passes``: folder for unfinished passes when the worker stops; ``ahead``: claim the next job
        during the last step; ``sharing``: lends and borrows GPUs. Models unload after ``idle_unload`` idle seconds.
        """
        self._dispatch = dispatch
        self._engine = engine
        self._catalog = catalog
        self._stop = stop
        self._inputs = inputs or SourcePictures(dispatch)
        self._claiming = Claiming(dispatch, self._inputs, stop, lambda: engine.loaded, ahead, self._requeue_unknown)
        self._idle_unload = idle_unload
        self._unsettled: list[tuple[Job, DatabaseProblem, bool]] = []
        self._reporter = Reporter(dispatch, stop, terms.preview_every, self._on_last_step)
        self._sizes = PassSizes(batch_size, engine.room.type == "cuda", dispatch.shares)
        self._kept = HeldPassStore(engine, passes)
        digests, finish = Digests(catalog.index), self._claiming.finish
        self._saver = Saver(dispatch, terms, digests, stop.wanted, self._settle, self._sizes.record, finish)
        self._ladder = Ladder(engine, dispatch.fits, dispatch.record_fit, memory)
        self._sharing = sharing or Sharing(dispatch, engine, catalog, stop, "off", 0.0)
        self._model: Model | None = None
        self._worked_at = time.monotonic()
        self._load_seconds = self._owed_until = 0.0
        self._aside: PassReporter | None = None

    def serve(self) -> None:
        """Run due jobs until a stop is requested: at once, at each ring, and every IDLE_POLL_SECONDS."""
        due = float("-inf")
        while not self._stop.wanted.is_set():
            if time.monotonic() >= due or self._dispatch.wait(WAIT_SECONDS):
                self.run_due_jobs()
                due = time.monotonic() + IDLE_POLL_SECONDS
            self._sharing.between_pictures()

    def run_due_jobs(self) -> None:
        """Run due jobs until none is left or a stop is requested."""
        busy = False
        try:
            while not self._stop.wanted.is_set() and self._give_back_unsettled() and (jobs := self._claim()):
                self._sharing.take_back()
                if not busy:
                    busy = True
                    self._report_status("busy", self._engine.loaded)
                self.run(jobs)
            if busy:
                self._saver.wait()
                self._worked_at = time.monotonic()
                self._report_status("idle", self._engine.loaded, self._engine.free())
            elif self._engine.loaded and time.monotonic() - self._worked_at > self._unload_after():
                self._engine.unload()
                self._report_status("idle", free=self._engine.free())
            self._sharing.lend()
        except DatabaseProblem as problem:
            log.error("the database cannot be used, trying again: %s", problem)
            self._stop.wanted.wait(DATABASE_PAUSE)
            self._requeue_unknown()

    def _report_status(self, status: str, model: str = "", free: int | None = None) -> None:
        """Update the displayed status; failures are ignored."""
        with contextlib.suppress(DatabaseProblem):
            self._dispatch.report_status(status, model, free)

    def _unload_after(self) -> float:
        """Idle seconds after which the model is unloaded."""
        return min(PAUSED_UNLOAD, self._idle_unload) if self._dispatch.paused() else self._idle_unload

    def _claim(self) -> list[Job]:
        """The next due job, with the compatible jobs that should share its pass."""
        jobs = self._claiming.next_jobs()
        if jobs and (pass_size := self._sizes.size_for(jobs[0])) > 1:
            with contextlib.suppress(NotFound, LostClaim):
                model = self._catalog.get(jobs[0].params.model)
                size = self._ladder.largest_pass(model, jobs[0].params, pass_size)
                if size > 1:
                    jobs += self._dispatch.claim(model.id, size - 1, jobs[0].claim)
        return jobs

    def run(self, jobs: Sequence[Job]) -> None:
        """Make the pictures of jobs that may share passes.

        Every job is settled, or requeued as soon as the database is available.
        """
        followed = self._reporter.follow(jobs, self._aside)
        waiting = list(followed.parts.values())
        may_wait = all(job.lane is Lane.BATCH and not job.crashes for job in jobs)
        while waiting:
            crew = Pass(waiting, self._urgent if may_wait else None, helper=self._sharing.helper(waiting))
            self._run_pass(crew, followed)
            waiting = crew.left

    def _run_pass(self, crew: Pass, followed: PassReporter) -> None:
        aside = self._load_seconds = 0.0
        expected = self._estimate(crew, self._engine.loaded)
        started = time.monotonic()
        try:
            if crew.wanted is not None:
                self._kept.restore(crew, [followed.job(part) for part in crew.parts], self._model_state(crew))
            self._make(crew, followed)
            while crew.held is not None:
                if not self._stop.now.is_set():
                    aside += self._run_urgent_jobs(crew, followed)
                if self._stop.now.is_set():
                    self._kept.save(crew, [followed.job(part) for part in crew.live], self._model_state(crew))
                    raise Stopped("shutdown")
                self._make(crew, followed)
        except Exception as error:
            for part in crew.live:
                part.problem = error
        run = time.monotonic() - started - self._load_seconds - aside
        self._settle_parts(crew, followed, JobTimings(run, self._load_seconds, expected))

    def _settle_parts(self, crew: Pass, followed: PassReporter, measured: JobTimings) -> None:
        """Save the finished pictures of a pass on other threads and settle its other jobs. Raises DatabaseProblem."""
        made, trouble = [], None
        together = sum(part.made is not None for part in crew.parts)
        for part in crew.parts:
            job = followed.job(part)
            try:
                if self._settle(job, part.check):
                    picture = part.result()
                    rung = str(picture.facts.get("rung", ""))
                    learned = together * (not picture.facts.get("helped_steps"))
                    made.append((job, picture, replace(measured, rung=rung, together=learned)))
                    if measured.load:  # the load counts only for the first picture of the pass
                        measured = replace(measured, load=0.0, expected=self._estimate(crew, job.params.model))
            except DatabaseProblem as problem:
                trouble = problem
        self._saver.save(made)
        if any(job.crashes for job, _, _ in made):
            self._saver.wait()  # settle a suspect alone, so that another job's crash is not counted against it
        if trouble is not None:
            raise trouble

    def _on_last_step(self, seconds: float) -> None:
        if not self._saver.unsaved:  # else this pass will wait for the gallery, perhaps for long
            self._claiming.expect(seconds)

    def _urgent(self) -> bool:
        """Whether a pass of the batch lane should yield to an interactive job or a stop."""
        if self._stop.now.is_set():
            return True
        if time.monotonic() < self._owed_until or self._stop.wanted.is_set():
            return False
        with contextlib.suppress(DatabaseProblem):
            return self._dispatch.urgent()
        return False

    def _run_urgent_jobs(self, crew: Pass, followed: PassReporter) -> float:
        """Run interactive jobs while a pass is held; returns the seconds spent.

        Raises the problem of the held pass's last part if no part is left.
        """
        began, served = time.monotonic(), False
        assert crew.held is not None
        log.info("suspended after step %d for an interactive job", crew.held.steps)
        self._aside, self._claiming.held = followed, True
        try:
            followed.report(crew, message("phase_aside"))
            while (
                not self._stop.wanted.is_set()
                and time.monotonic() - began < TURN_SECONDS
                and self._dispatch.ready()
                and (jobs := self._dispatch.claim(self._engine.loaded, urgent=True))
            ):
                self.run(jobs)
                served = True
        except DatabaseProblem as problem:  # the held pass may continue; unsettled jobs are requeued later
            log.error("the database cannot be used: %s", problem)
        finally:
            self._aside, self._claiming.held = None, False
        seconds = time.monotonic() - began
        self._owed_until = time.monotonic() + (OWED_SHARE * seconds if served else OWED_FOR_NOTHING)
        if not self._stop.now.is_set():
            followed.report(crew)
        return seconds

    def _model_state(self, crew: Pass) -> str:
        """A text that identifies the version of the model's files; "" if unknown."""
        with contextlib.suppress(NotFound, OSError):
            path = self._catalog.get(crew.parts[0].params.model).path
            return f"{path} {path.stat().st_mtime_ns}"
        return ""

    def _estimate(self, crew: Pass, loaded: str) -> float | None:
        try:
            return self._dispatch.estimate_seconds(crew.parts[0].params, loaded, len(crew.parts))
        except DatabaseProblem:
            return None

    def _give_back_unsettled(self) -> bool:
        """Requeue jobs whose end could not be written, now that the database may be available again. Returns True.

        A fault that only this job had is counted against it, so that it is not requeued forever.
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

    def _requeue_unknown(self) -> None:
        """Requeue claims that were written although the database reported a fault: this worker does not run them."""
        with contextlib.suppress(DatabaseProblem, LostClaim):
            known = {job.id for job, _, _ in self._unsettled} | self._saver.unsaved
            known |= {job.id for job in self._claiming.waiting}
            for job in self._dispatch.running():
                if job.id not in known:
                    self._dispatch.requeue(job.claim, "the database could not be written")

    def close(self) -> None:
        self._sharing.give_back()
        self._saver.close()
        self._unsettled += [(job, problem, False) for job, problem in self._claiming.close()]
        try:
            self._give_back_unsettled()
        except DatabaseProblem as problem:  # the next holder of the slot recovers them
            log.error("%s", problem)
            with contextlib.suppress(DatabaseProblem):
                self._dispatch.give_back([job.claim for job, _, _ in self._unsettled])
        self._reporter.close()

    def _make(self, crew: Pass, followed: PassReporter) -> None:
        params, began = crew.parts[0].params, 0.0
        for part in crew.live[:1]:  # all parts of a pass have the same sources
            self._inputs.fetch(followed.job(part))

        def on_progress(share: float) -> None:
            nonlocal began
            began = began or time.monotonic()
            loaded = message("phase_preparing", model=params.model)
            followed.report(crew, message("phase_loading", model=params.model, share=share) if share < 1 else loaded)
            self._report_status("loading" if share < 1 else "busy", params.model)

        def begin() -> None:
            self._load_seconds += time.monotonic() - began if began else 0.0
            followed.begin(crew)

        def report_phase(words: str) -> None:
            followed.report(crew, words)

        if params.kind is Kind.UPSCALE:  # needs no model
            followed.begin(crew)
            self._engine.run(crew)
            return
        # 1. Find the model, without reading its files again if it is in memory.
        if self._model is None or self._model.id != params.model or self._engine.loaded != params.model:
            try:
                self._model = self._catalog.get(params.model)
            except NotFound as error:
                raise ModelUnavailable(message("model_left", problem=error.message)) from None
            if self._engine.room.type:  # hash while the model is loaded from the same files
                path = self._model.path
                self._saver.hash(params.model, lambda digests: digests.sha256(path))
        # 2. Load it and denoise, reporting after each step; if memory runs out, on a rung that needs less.
        self._ladder.run(self._model, crew, on_progress, begin, report_phase)

    def _settle(self, job: Job, work: Callable[[], None]) -> bool:
        """Do the work and map its exception to the job's transition. No other place decides a job's outcome.

        Returns whether the work succeeded.
        """
        try:
            try:
                with disk.storage_errors():
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
                    self._stop.request()  # the supervisor starts a new process, in which the device works again
                failure = Failure(error.kind, error.message, traceback.format_exc())
                if error.of_machine and self._dispatch.pass_on(job.claim, failure):
                    log.warning("passed on to another worker (%s): %s", error.kind, error, extra={"job": job.id})
                elif error.transient and job.tries + 1 < MAX_TRIES:
                    self._retry_later(job, error)
                else:
                    self._dispatch.fail(job.claim, failure)
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
            self._unsettled.append((job, problem, self._dispatch.check_storage()))
            raise
        except LostClaim:
            log.warning("the claim was lost; the job is left unchanged", extra={"job": job.id})
        return False

    def _retry_later(self, job: Job, error: EngineError) -> None:
        pause = FIRST_BACKOFF * 2**job.tries
        note = message("event_error", kind=error.kind, problem=error.message)
        self._dispatch.requeue(job.claim, note, pause, tries=1)
        words = "%s; again in %.0f s (try %d of %d)"
        log.warning(words, error, pause, job.tries + 2, MAX_TRIES, extra={"job": job.id})

    def _give_back(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """Requeue a job after a storage fault. A lasting fault blocks the queue and is not counted against the job."""
        if self._dispatch.check_storage():
            self._count_fault(job, problem)
        else:
            self._dispatch.requeue(job.claim, problem.message)

    def _count_fault(self, job: Job, problem: StorageProblem | DatabaseProblem) -> None:
        """Handle a storage fault that only this job had: retry after a pause, fail at MAX_TRIES faults."""
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
