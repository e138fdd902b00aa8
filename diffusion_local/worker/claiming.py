"""Claims jobs, and the next one while the last step of a pass runs, so that the device does not wait for the studio."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from diffusion_local.dispatch import Dispatch
from diffusion_local.domain import Job
from diffusion_local.errors import DatabaseProblem, LostClaim, NotFound, StorageProblem
from diffusion_local.messages import message
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop

LEAD_SECONDS = 0.5  # a job is claimed at most this long before its turn, so that later decisions of users still count


class Claiming:
    """Claims on the calling thread or, with ``ahead``, on a thread of its own before the device is free.

    A job that is claimed ahead waits for ``next_jobs``; its source pictures are fetched meanwhile.
    """

    def __init__(
        self, dispatch: Dispatch, inputs: SourcePictures, stop: Stop, loaded: Callable[[], str], ahead: bool
    ) -> None:
        """``loaded``: returns the model in memory."""
        self._dispatch = dispatch
        self._inputs = inputs
        self._stop = stop
        self._loaded = loaded
        self._claimer = ThreadPoolExecutor(1, thread_name_prefix="claimer") if ahead else None
        self._claimed: Future[list[Job]] | None = None
        self._due = threading.Event()

    def next_jobs(self) -> list[Job]:
        """The job that was claimed ahead or is due now; none if nothing is due, or the studio cannot store pictures.

        Raises DatabaseProblem.
        """
        jobs, self._claimed = self.waiting, None
        return jobs or self._claim()

    def expect(self, seconds: float) -> None:
        """Claim the next job in the background; the device will be free in about ``seconds``."""
        if self._claimer is not None and self._claimed is None:
            self._due.clear()
            self._claimed = self._claimer.submit(self._claim_ahead, seconds - LEAD_SECONDS)

    @property
    def waiting(self) -> list[Job]:
        """The jobs that were claimed ahead and not taken yet."""
        if self._claimed is None:
            return []
        self._due.set()
        return self._claimed.result()

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
            return []
        with contextlib.suppress(DatabaseProblem, StorageProblem, LostClaim, NotFound):
            for job in jobs:
                self._inputs.fetch_ahead(job)
        return jobs
