"""Reports how far a job is while it is made, and stops it when a person wants it stopped."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image as PIL

from diffusion_local.dispatch import Dispatch, ProgressReport
from diffusion_local.domain import Flags, Job
from diffusion_local.engine import OnStep
from diffusion_local.errors import DatabaseProblem, LostClaim, Stopped
from diffusion_local.gallery.formats import PREVIEW_QUALITY, webp
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.2  # at most five writes a second about a running job; flags are read at every step
PREVIEW_SECONDS = 0.5
DATABASE_PAUSE = 2.0


class Reporter:
    """Reports and previews of the job that is made on the calling thread; previews are drawn on another one."""

    def __init__(self, dispatch: Dispatch, stop: Stop, every: int) -> None:
        """``every``: steps between two previews; 0 draws none."""
        self._dispatch = dispatch
        self._every = every
        self._stop = stop
        self._previewer = ThreadPoolExecutor(1, thread_name_prefix="preview")
        self._drawing: Future[None] | None = None
        self._silent_until = 0.0

    def on_step(self, job: Job) -> OnStep:
        """What an engine calls after each step, with a function that draws a preview."""
        self.report(job, 0)
        reported = previewed = time.monotonic()

        def on_step(step: int, preview: Callable[[], PIL.Image] | None) -> None:
            nonlocal reported, previewed
            now = time.monotonic()
            if preview is not None and self._every and step % self._every == 0 and now - previewed >= PREVIEW_SECONDS:
                previewed = now
                self._draw_preview(job, preview)
            if now - reported >= REPORT_SECONDS or step == job.params.steps:
                reported = now
                self.report(job, step)
            else:
                self._hear(lambda: self._dispatch.flags([job.claim]))

        return on_step

    def report(self, job: Job, step: int, phase: str = "") -> None:
        """Raises Stopped and LostClaim."""
        self._hear(lambda: self._dispatch.report([ProgressReport(job.claim, step, phase)]))

    def _hear(self, ask: Callable[[], list[Flags | None]]) -> None:
        """A database that cannot be used for a while is no reason to throw the work away. It is asked again a little
        later, as each time may take as long as the database waits for a lock.
        """
        flags: Flags | None = Flags(cancel=False)
        if time.monotonic() >= self._silent_until:
            try:
                [flags] = ask()
            except DatabaseProblem as problem:
                self._silent_until = time.monotonic() + DATABASE_PAUSE
                log.error("the database cannot be used, going on without: %s", problem)
        if flags is None:
            raise LostClaim
        if flags.cancel:
            raise Stopped("cancel")
        if flags.give_back:
            raise Stopped("pause")
        if self._stop.now.is_set():
            raise Stopped("shutdown")

    def _draw_preview(self, job: Job, preview: Callable[[], PIL.Image]) -> None:
        """Beside the denoising, and left out while the one before is still being drawn."""
        if self._drawing is None or self._drawing.done():
            self._drawing = self._previewer.submit(
                lambda: self._dispatch.save_preview(job.claim, webp(preview(), PREVIEW_QUALITY))
            )

    def close(self) -> None:
        self._previewer.shutdown()
