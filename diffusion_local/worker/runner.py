"""One job's road through a worker: claim, load, denoise, save, settle."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from PIL import Image as PIL

from diffusion_local.catalog import Model
from diffusion_local.compose import House
from diffusion_local.domain import MAX_TRIES, Failure, Image, Job, Kind, Params, utc_now, utc_text
from diffusion_local.engine import Engine, OnStep, Picture
from diffusion_local.errors import (
    DatabaseProblem,
    DeviceLost,
    EngineError,
    LostClaim,
    ModelUnavailable,
    NotFound,
    Stopped,
)
from diffusion_local.models.digests import Digests
from diffusion_local.store import recipe
from diffusion_local.store.files import key_for
from diffusion_local.store.jobs import Flags
from diffusion_local.store.paces import Measured
from diffusion_local.worker.ladder import Ladder
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.2  # at most five writes a second about a running job; flags are read at every step
PREVIEW_SECONDS = 0.5
FIRST_BACKOFF = timedelta(seconds=10)  # doubled at each further try
DATABASE_PAUSE = 2.0
PAUSED_UNLOAD = 60.0  # seconds; a long pause frees the device's memory


class Runner:
    """Runs the jobs of one slot. Denoising happens on the calling thread; saving overlaps the next job's denoising."""

    def __init__(self, house: House, slot: str, engine: Engine, stop: Stop) -> None:
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
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._previewer = ThreadPoolExecutor(1, thread_name_prefix="preview")
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hasher")
        self._digests = Digests(house.catalog.shelf)
        self._hashes: dict[str, Future[str]] = {}
        self._saving: Future[None] | None = None
        self._drawing: Future[None] | None = None
        self._unsettled: list[Job] = []
        self._ladder = Ladder(engine, house.fits, house.settings.memory)
        self._model: Model | None = None
        self._worked_at = time.monotonic()
        self._load_seconds = 0.0

    def work_off(self) -> None:
        """Run what is due until nothing is, or until told to stop."""
        busy = False
        try:
            self._give_back_unsettled()
            while (
                not self._stop.wanted.is_set()
                and self._has_room()
                and (job := self._jobs.claim_next(self._slot, self._engine.loaded))
            ):
                if not busy:
                    busy = True
                    self._workers.tell(self._slot, "busy", self._engine.loaded)
                self.run(job)
            if busy:
                self.wait_for_saver()
                self._worked_at = time.monotonic()
                self._workers.tell(self._slot, "idle", self._engine.loaded, self._engine.free())
            elif self._engine.loaded and time.monotonic() - self._worked_at > self._patience():
                self._engine.unload()
                self._workers.tell(self._slot, "idle", free=self._engine.free())
        except DatabaseProblem as problem:
            log.error("the database cannot be used, trying again: %s", problem)
            self._stop.wanted.wait(DATABASE_PAUSE)

    def _has_room(self) -> bool:
        """Whether the disk has more free than the reserve; if not the queue holds itself back until it has."""
        reserve, free = self._settings.disk_reserve_mb * 10**6, self._files.free_bytes()
        if free >= reserve:
            if self._control.blocked():
                self._control.block("")
                log.info("there is room on the disk again")
            return True
        if not self._control.blocked():
            log.warning("the disk is nearly full: %d MB free", free // 10**6)
        self._control.block(
            f"The disk is nearly full: less than {self._settings.disk_reserve_mb} MB are free. Free some space; the "
            "queue goes on by itself."
        )
        return False

    def _patience(self) -> float:
        """Idle seconds after which the model is taken out of memory."""
        return min(PAUSED_UNLOAD, self._settings.idle_unload) if self._control.closed() else self._settings.idle_unload

    def run(self, job: Job) -> None:
        """Make one job's picture. Whatever happens, the job is settled or left to ``recover``."""
        made: list[Picture] = []
        self._load_seconds = 0.0
        expected = self._view.expected(job.params, self._engine.loaded)
        started = time.monotonic()
        if self._settle(job, lambda: made.append(self._make(job))):
            # 3. Save on the other thread; one picture at a time, so that memory stays flat.
            try:
                self.wait_for_saver()
            except DatabaseProblem:
                self._unsettled.append(job)
                raise
            run = time.monotonic() - started - self._load_seconds
            measured = Measured(run, self._load_seconds, expected, str(made[0].facts.get("rung", "")))
            self._saving = self._saver.submit(self._finish, job, made[0], measured)
            if job.crashes:  # a suspect is settled alone, so that the crash of another is not counted as its own
                self.wait_for_saver()
        else:
            self._forget(job)

    def wait_for_saver(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _give_back_unsettled(self) -> None:
        """Jobs whose end could not be written, as the database was not there, are made again."""
        while self._unsettled:
            with contextlib.suppress(LostClaim):
                self._jobs.requeue(self._unsettled[-1].claim, "the database could not be written")
            self._unsettled.pop()

    def close(self) -> None:
        self._digests.stop()
        try:
            self.wait_for_saver()
            self._give_back_unsettled()
        except DatabaseProblem as problem:  # the next holder of the slot recovers them
            log.error("%s", problem)
        for pool in (self._saver, self._previewer, self._hasher):
            pool.shutdown()

    def _make(self, job: Job) -> Picture:
        params, began = job.params, 0.0

        def on_progress(share: float) -> None:
            nonlocal began
            began = began or time.monotonic()
            self._stop_if_asked(self._jobs.report(job.claim, 0, f"loading {params.model}, {share:.0%}"))
            self._workers.tell(self._slot, "loading" if share < 1 else "busy", params.model)

        def on_steps() -> OnStep:
            self._load_seconds = time.monotonic() - began if began else self._load_seconds
            return self._reporter(job)

        def say(words: str) -> None:
            self._stop_if_asked(self._jobs.report(job.claim, 0, words))

        if params.kind is Kind.UPSCALE:  # it needs no model
            return self._engine.generate(params, self._reporter(job))
        # 1. Know the model; one that is in memory needs no look at its files.
        if self._model is None or self._model.id != params.model or self._engine.loaded != params.model:
            try:
                self._model = self._catalog.get(params.model)
            except NotFound as error:
                raise ModelUnavailable(f"{error.message} Put its folder back into models/, then try again.") from None
            if self._engine.room.type:  # while it is loaded, from the same files
                self._hashes[params.model] = self._hasher.submit(self._digests.of, self._model.path)
        # 2. Have it in memory and denoise, with a report after each step; a smaller way of holding it if need be.
        return self._ladder.make(self._model, params, on_progress, on_steps, say)

    def _reporter(self, job: Job) -> Callable[[int, Callable[[], PIL.Image] | None], None]:
        self._stop_if_asked(self._jobs.report(job.claim, 0))
        reported = previewed = time.monotonic()

        def on_step(step: int, preview: Callable[[], PIL.Image] | None) -> None:
            nonlocal reported, previewed
            now = time.monotonic()
            every = self._settings.preview_every
            if preview is not None and every and step % every == 0 and now - previewed >= PREVIEW_SECONDS:
                previewed = now
                self._draw_preview(job, preview)
            if now - reported >= REPORT_SECONDS or step == job.params.steps:
                reported = now
                flags = self._jobs.report(job.claim, step)
            else:
                flags = self._jobs.flags(job.claim)
            self._stop_if_asked(flags)

        return on_step

    def _stop_if_asked(self, flags: Flags) -> None:
        if flags.cancel:
            raise Stopped("cancel")
        if flags.give_back:
            raise Stopped("pause")
        if self._stop.now.is_set():
            raise Stopped("shutdown")

    def _draw_preview(self, job: Job, preview: Callable[[], PIL.Image]) -> None:
        """Beside the denoising, and left out while the one before is still being drawn."""
        if self._drawing is None or self._drawing.done():
            self._drawing = self._previewer.submit(lambda: self._files.save_preview(job.id, preview()))

    def _finish(self, job: Job, picture: Picture, measured: Measured) -> None:
        try:
            self._settle(job, lambda: self._save(job, picture, measured))
        finally:
            self._forget(job)

    def _save(self, job: Job, picture: Picture, measured: Measured) -> None:
        """Bytes before rows: the picture's row and `done` are written once its file is safe."""
        seconds = measured.run + measured.load
        key = key_for(job.id, job.created_at)
        width, height = picture.image.size
        image = Image(job.id, job.id, key, job.params, width, height, 0, utc_now(), seconds)
        self._jobs.flags(job.claim)  # a claim lost meanwhile must not touch the file
        facts = picture.facts | self._model_hash(job.params)
        saved = self._files.save(key, picture.image, recipe.texts(image, facts))
        kept = replace(image, key=saved.key, bytes=saved.bytes, facts=facts)
        self._jobs.finish(job.claim, kept, measured)
        log.info("done in %.2f s", seconds, extra={"job": job.id})

    def _model_hash(self, params: Params) -> dict[str, str]:
        """As A1111 writes it, ten digits. Computed at a model's first use, which its first picture may wait for."""
        computed = self._hashes.get(params.model) if params.kind is not Kind.UPSCALE else None
        digest = computed.result()[:10] if computed else ""
        return {"model_hash": digest} if digest else {}

    def _forget(self, job: Job) -> None:
        self._previewer.submit(self._files.drop_preview, job.id)  # after whatever is still being drawn

    def _settle(self, job: Job, work: Callable[[], None]) -> bool:
        """Do the work, and turn whatever it raises into the job's transition: the one place where outcomes are decided.

        True if the work was done.
        """
        try:
            try:
                work()
                return True
            except Stopped as stopped:
                if stopped.reason == "cancel":
                    self._jobs.stop(job.claim)
                else:
                    self._jobs.requeue(job.claim, f"given back: {stopped.reason}")
                log.info("%s", stopped, extra={"job": job.id})
            except EngineError as error:
                if isinstance(error, DeviceLost):
                    self._stop.request()  # the supervisor starts a new process, which has a sound device
                if error.transient and job.tries + 1 < MAX_TRIES:
                    self._try_later(job, error)
                else:
                    self._jobs.fail(job.claim, Failure(error.kind, error.message, traceback.format_exc()))
                    log.warning("failed (%s): %s", error.kind, error.message, extra={"job": job.id})
            except (LostClaim, DatabaseProblem):
                raise
            except Exception as bug:
                message = f"{type(bug).__name__}: {bug}. This is a fault of the program; its log has the details."
                self._jobs.fail(job.claim, Failure("internal_error", message, traceback.format_exc()))
                log.exception("failed (internal_error)", extra={"job": job.id})
        except DatabaseProblem:
            self._unsettled.append(job)
            raise
        except LostClaim:
            log.warning("the claim was lost; nothing was written", extra={"job": job.id})
        return False

    def _try_later(self, job: Job, error: EngineError) -> None:
        wait = FIRST_BACKOFF * 2**job.tries
        again = utc_text(datetime.now(UTC) + wait)
        self._jobs.requeue(job.claim, f"{error.kind}: {error.message}", not_before=again, tries=1)
        log.warning("%s; again at %s (try %d of %d)", error, again, job.tries + 2, MAX_TRIES, extra={"job": job.id})
