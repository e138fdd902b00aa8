"""Claims jobs, and the next one while the current pass ends, so that the device does not wait for the studio."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from diffusion_local.dispatch import Dispatch
from diffusion_local.domain import Job
from diffusion_local.errors import DatabaseProblem, LostClaim, NotFound, StorageProblem
from diffusion_local.messages import message
from diffusion_local.queue.estimates import Work
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop

LEAD_SECONDS = 0.5  # a job is claimed at most this long before its turn, so that later decisions of users still count


class Claiming:
    """Claims on the calling thread or, with ``ahead``, before the device is free: on a thread of its own, or together
    with the delivery of the previous picture.

    A job that is claimed ahead waits for ``next_jobs``; its source pictures are fetched meanwhile.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        inputs: SourcePictures,
        stop: Stop,
        loaded: Callable[[], str],
        ahead: bool,
        requeue_unknown: Callable[[], None] = lambda: None,
    ) -> None:
        """``loaded``: returns the model in memory. ``requeue_unknown``: called before the next claim if the answer to a
        claim ahead was lost, so that this worker may hold a job of which it does not know.
        """
        self._dispatch = dispatch
        self._inputs = inputs
        self._stop = stop
        self._loaded = loaded
        self._requeue_unknown = requeue_unknown
        self._claimer = ThreadPoolExecutor(1, thread_name_prefix="claimer") if ahead else None
        self._lock = threading.Lock()
        self._claimed: Future[list[Job]] | None = None
        self._due = threading.Event()
        self._failed = False
        self._running: list[Job] = []
        self._began = 0.0
        self._pass_seconds: float | None = None
        self._delivery_seconds = float("inf")
        #: Whether a pass is held for interactive jobs, during which no job is claimed ahead.
        self.held = False

    def next_jobs(self) -> list[Job]:
        """The job that was claimed ahead or is due now; none if nothing is due, or the studio cannot store pictures.

        Raises DatabaseProblem.
        """
        jobs = self.waiting
        if self._failed:
            self._failed = False
            self._requeue_unknown()
        with self._lock:
            self._claimed = None
        jobs = jobs or self._claim()
        now = time.monotonic()
        alike = [Work.of_params(job.params) for job in jobs] == [Work.of_params(job.params) for job in self._running]
        self._pass_seconds = now - self._began if jobs and alike else None
        self._running, self._began = jobs, now
        return jobs

    def expect(self, seconds: float) -> None:
        """Claim the next job in the background; the device will be free in about ``seconds``."""
        with self._lock:
            if self._claimer is not None and self._claimed is None:
                self._due.clear()
                self._claimed = self._claimer.submit(self._claim_ahead, seconds - LEAD_SECONDS)

    def finish(self, finish: Callable[[str | None], list[Job]]) -> None:
        """Deliver a picture: call ``finish``, which claims the next job too if it is passed the model in memory."""
        began, claimed, jobs = time.monotonic(), self._reserve(), list[Job]()
        try:
            jobs = finish(None if claimed is None else self._loaded())
            self._delivery_seconds = time.monotonic() - began
            self._fetch_inputs(jobs)
        except DatabaseProblem:
            self._failed = self._failed or claimed is not None
            raise
        finally:
            if claimed is not None:
                claimed.set_result(jobs)

    def _reserve(self) -> "Future[list[Job]] | None":
        """The place for a job that is claimed with a delivery; None if it is too early, or the delivery may not come to
        its end before the job's turn.

        Not while a job runs that has been lost with a worker: if it takes this one down too, no other must count that.
        """
        with self._lock:
            if self._claimer is None or self._claimed is not None or self._pass_seconds is None:
                return None
            left = self._began + self._pass_seconds - time.monotonic()
            due = 2 * self._delivery_seconds < left <= LEAD_SECONDS
            if not due or self.held or self._stop.wanted.is_set() or any(job.crashes for job in self._running):
                return None
            self._claimed = Future()
            return self._claimed

    @property
    def waiting(self) -> list[Job]:
        """The jobs that were claimed ahead and not taken yet."""
        claimed = self._claimed
        if claimed is None:
            return []
        self._due.set()
        return claimed.result()

    def close(self) -> list[tuple[Job, DatabaseProblem]]:
        """Stop claiming and give waiting jobs back; returns those for which that failed, with the reason."""
        failed = []
        for job in self.waiting:
            try:
                self._dispatch.requeue(job.claim, message("event_given_back", reason="shutdown"))
            except LostClaim:
                continue
            except DatabaseProblem as problem:
                failed.append((job, problem))
        self._claimed = None
        if self._claimer is not None:
            self._claimer.shutdown()
            self._claimer = None
        return failed

    def _claim(self) -> list[Job]:
        return self._dispatch.claim(self._loaded()) if self._dispatch.ready() else []

    def _claim_ahead(self, pause: float) -> list[Job]:
        """Claim after ``pause`` seconds, or as soon as the job is asked for. Problems are left to ``next_jobs``."""
        self._due.wait(max(0.0, pause))
        if self._stop.wanted.is_set():
            return []
        try:
            jobs = self._claim()
        except DatabaseProblem:
            self._failed = True
            return []
        self._fetch_inputs(jobs)
        return jobs

    def _fetch_inputs(self, jobs: list[Job]) -> None:
        with contextlib.suppress(DatabaseProblem, StorageProblem, LostClaim, NotFound):
            for job in jobs:
                self._inputs.fetch_ahead(job)
