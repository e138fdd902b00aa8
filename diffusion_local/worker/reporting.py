"""Reports the progress of running jobs and ends those that a user cancels."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from diffusion_local.dispatch import Dispatch, ProgressReport
from diffusion_local.domain import Flags, Job
from diffusion_local.engine import Part, Pass, Preview
from diffusion_local.errors import DatabaseProblem, LostClaim, Stopped
from diffusion_local.gallery.image_formats import PREVIEW_QUALITY, webp
from diffusion_local.messages import message
from diffusion_local.worker.stopping import Stop

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.2  # at most five writes a second about a running job; flags are read at every step
ASK_SECONDS = 0.25  # between two reads of the flags within a step, while a detector runs
PREVIEW_SECONDS = 0.5
KEEP_SECONDS = 1.0  # between two reports about a held pass
DATABASE_PAUSE = 2.0


class Reporter:
    """Reports jobs that run on the calling thread; previews are drawn on another thread."""

    def __init__(
        self, dispatch: Dispatch, stop: Stop, every: int, on_last_step: Callable[[float], None] = lambda seconds: None
    ) -> None:
        """``every``: steps between two previews; 0 draws none. ``on_last_step``: called with the expected seconds when
        the last step before the worker's next claim begins.
        """
        self._dispatch = dispatch
        self.on_last_step = on_last_step
        self._every = every
        self._stop = stop
        self._previewer = ThreadPoolExecutor(1, thread_name_prefix="preview")
        self._drawing: dict[str, Future[None]] = {}
        self._silent_until = 0.0

    def follow(self, jobs: Sequence[Job], aside: "PassReporter | None" = None) -> "PassReporter":
        """Create a reporter for the jobs of one claim. It also reports ``aside``, a pass held meanwhile."""
        return PassReporter(self, jobs, aside)

    def exchange(self, reports: Sequence[ProgressReport], write: bool, stops: bool = True) -> list[Exception | None]:
        """Report progress or, without ``write``, only read the flags. Returns per job the exception that ends it.

        The exception is None for a job that continues. Without ``stops``, stopping the worker ends no job. While the
        database is unavailable, work continues and the database is not called for DATABASE_PAUSE seconds, because each
        call may block until its lock times out.
        """
        answers: list[Flags | None] = [Flags(cancel=False)] * len(reports)
        if reports and time.monotonic() >= self._silent_until:
            try:
                claims = [each.claim for each in reports]
                answers = self._dispatch.report(reports) if write else self._dispatch.flags(claims)
            except DatabaseProblem as problem:
                self._silent_until = time.monotonic() + DATABASE_PAUSE
                log.error("the database is unavailable, continuing without it: %s", problem)
        return [self._problem_of(flags, stops) for flags in answers]

    def preview_is_due(self, step: int) -> bool:
        return bool(self._every) and step % self._every == 0

    def draw_preview(self, job: Job, preview: Preview) -> None:
        """Draw a preview, finish and save it in the background; skipped while the job's previous one is being drawn."""
        drawing = self._drawing.get(job.id)
        if drawing is None or drawing.done():
            self._drawing = {name: future for name, future in self._drawing.items() if not future.done()}
            try:
                finish = preview()
            except Exception as problem:  # a failing preview must not fail the picture
                log.warning("step without a preview: %s", problem)
                return
            self._drawing[job.id] = self._previewer.submit(
                lambda: self._dispatch.save_preview(job.claim, webp(finish(), PREVIEW_QUALITY))
            )

    def _problem_of(self, flags: Flags | None, stops: bool) -> Exception | None:
        if flags is None:
            return LostClaim()
        if flags.cancel:
            return Stopped("cancel")
        if flags.give_back:
            return Stopped("pause")
        return Stopped("shutdown") if stops and self._stop.now.is_set() else None

    def close(self) -> None:
        self._previewer.shutdown()


class PassReporter:
    """Reports the jobs of one claim together, once per step; only cancelled or lost ones end.

    ``aside``: the reporter of a pass that is held for these jobs, which is reported as well.
    """

    def __init__(self, reporter: Reporter, jobs: Sequence[Job], aside: "PassReporter | None") -> None:
        self._reporter = reporter
        self._aside = aside
        self.parts = {job.id: Part(job.params, partial(self._on_step, job)) for job in jobs}
        self._jobs = {self.parts[job.id]: job for job in jobs}
        self._running: Pass | None = None
        self._step = 0
        self._reported = self._kept = self._asked = self._stepped = 0.0
        self._previewed: dict[str, float] = {}

    def job(self, part: Part) -> Job:
        return self._jobs[part]

    def begin(self, crew: Pass) -> None:
        """Call before each run of a pass. Raises the problem of its last part if none is left."""
        self._running, self._step = crew, 0
        self._stepped = time.monotonic()
        self._previewed = dict.fromkeys(self.parts, self._stepped)
        self.report(crew)
        self._announce_last_step(crew, 0, 0.0)

    def report(self, crew: Pass, phase: str = "") -> None:
        """Report an unchanged step and a ``phase``. Raises Stopped or LostClaim if no part is left."""
        self._running = crew
        self._exchange(crew.held.steps if crew.held else 0, phase, write=True)
        if not crew.live and (problems := [part.problem for part in crew.parts if part.problem]):
            raise problems[-1]

    def report_aside(self) -> None:
        """Report a held pass every KEEP_SECONDS, and end its cancelled jobs."""
        crew = self._running
        if crew is not None and time.monotonic() - self._kept >= KEEP_SECONDS:
            self._kept = time.monotonic()
            self._exchange(crew.held.steps if crew.held else 0, message("phase_aside"), write=True, stops=False)

    def _on_step(self, job: Job, step: int, preview: Preview | None) -> None:
        part, now = self.parts[job.id], time.monotonic()
        if step != self._step or now - self._asked >= ASK_SECONDS:  # the first part of a step exchanges for all parts
            if step != self._step and self._running is not None:
                self._announce_last_step(self._running, step, now - self._stepped)
                self._stepped = now
            self._step = step
            write = now - self._reported >= REPORT_SECONDS or step == job.params.total_steps
            # a pass that can be held is not ended by a stop: it is stored for the next start
            self._exchange(step, "", write, stops=self._running is None or self._running.wanted is None)
        if part.problem is not None:
            raise part.problem
        due = preview is not None and self._reporter.preview_is_due(step)
        if due and now - self._previewed.get(job.id, 0.0) >= PREVIEW_SECONDS:
            assert preview is not None
            self._previewed[job.id] = now
            self._reporter.draw_preview(job, preview)

    def _announce_last_step(self, crew: Pass, step: int, seconds: float) -> None:
        """Call ``on_last_step`` if the next step ends the last pass of these jobs.

        Not for a job that has been lost with a worker: if it takes this one down too, no other job must count that.
        """
        last = step == crew.parts[0].params.total_steps - 1 and not crew.left
        if last and self._aside is None and not any(job.crashes for job in self._jobs.values()):
            self._reporter.on_last_step(seconds)

    def _exchange(self, step: int, phase: str, write: bool, stops: bool = True) -> None:
        """Exchange reports for all live parts; parts that wait for another pass are at step 0."""
        if write:
            self._reported = time.monotonic()
        if self._aside is not None:
            self._aside.report_aside()
        running = self._running.parts if self._running else []
        live = [part for part in self.parts.values() if part.live]
        reports = [ProgressReport(self._jobs[part].claim, step if part in running else 0, phase) for part in live]
        for part, problem in zip(live, self._reporter.exchange(reports, write, stops), strict=True):
            part.problem = problem
        self._asked = time.monotonic()
