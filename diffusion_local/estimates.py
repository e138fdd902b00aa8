"""Estimates of time from this machine's own history. Pure arithmetic; the store brings the numbers.

Work is counted in step-megapixels (``Params.cost``); a pace is seconds per unit of it, for one model.
"""

from collections.abc import Iterable, Mapping
from statistics import median

from diffusion_local.domain import Job


def pace(history: Iterable[tuple[float, float]]) -> float | None:
    """Median seconds per unit of work from (seconds, cost) pairs; the median, so that one slow load does not count."""
    each = [seconds / cost for seconds, cost in history if cost > 0 and seconds > 0]
    return median(each) if each else None


def seconds_left(job: Job, paces: Mapping[str, float]) -> float | None:
    """Seconds a job still needs once it runs (all of it, if it waits)."""
    known = paces.get(job.params.model)
    if known is None:
        return None
    return known * job.params.cost * max(0.0, 1 - job.step / job.params.steps)


def finish_times(
    running: Iterable[Job], waiting: Iterable[Job], paces: Mapping[str, float], workers: int
) -> dict[str, float]:
    """Seconds from now until each job is done, where the paces of all before it are known.

    Jobs are dealt in order to the worker that is free first.
    """
    free = [0.0] * max(1, workers)
    times: dict[str, float] = {}
    for place, job in enumerate(running):
        left = seconds_left(job, paces)
        if left is None:
            return times
        times[job.id] = free[place % len(free)] = left
    for job in waiting:
        left = seconds_left(job, paces)
        if left is None:
            return times
        first = free.index(min(free))
        free[first] += left
        times[job.id] = free[first]
    return times


def total(
    running: Iterable[Job], queued_cost: Mapping[str, float], paces: Mapping[str, float], workers: int
) -> float | None:
    """Seconds until everything is done; None while a model's pace is not known."""
    seconds = 0.0
    for job in running:
        left = seconds_left(job, paces)
        if left is None:
            return None
        seconds += left
    for model, cost in queued_cost.items():
        if model not in paces:
            return None
        seconds += cost * paces[model]
    return seconds / max(1, workers)
