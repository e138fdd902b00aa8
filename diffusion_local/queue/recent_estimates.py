"""Estimates that the submits of one lane and priority share for a few seconds."""

import math
import time
from collections.abc import Callable

from diffusion_local.domain import Job, Lane

RECENT_SECONDS = 5.0  # how long an estimate serves other jobs


class RecentEstimates:
    """The latest estimates, because one reads all that runs and waits, which takes longer than a submit."""

    def __init__(self) -> None:
        self._made: dict[tuple[Lane, int], tuple[float, float | None]] = {}  # (when, seconds until done)

    def seconds(self, job: Job, estimate: Callable[[Job], float | None]) -> float | None:
        """Seconds until a job that was just submitted is done, by ``estimate`` unless there is a recent one."""
        key = (job.lane, job.priority)
        made_at, seconds = self._made.get(key, (-math.inf, None))
        if time.monotonic() - made_at >= RECENT_SECONDS:
            seconds = estimate(job)
            self._made[key] = time.monotonic(), seconds
        return seconds
