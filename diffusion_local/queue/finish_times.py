"""When queued and running jobs will be done, by the learned durations. Pure arithmetic; stores supply the numbers."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from diffusion_local.domain import Job, Lane, State
from diffusion_local.queue.estimates import Pace, Work


def seconds_left(job: Job, pace: Pace, loaded: str = "") -> float | None:
    """Seconds a job still needs once it runs (its share of a pass), for a queued job including its model's load."""
    work = Work.of_params(job.params)
    if job.lane is Lane.BATCH and job.state is State.QUEUED:
        known = pace.queued_seconds(work)
    else:
        known = pace.seconds(work, 1 if job.lane is Lane.INTERACTIVE else None)
    if known is None:
        return None
    load = 0.0 if job.step else pace.load_seconds(job.params.model, loaded)
    return load + known * max(0.0, 1 - job.step / job.params.total_steps)


def finish_times(
    running: Iterable[Job],
    waiting: Iterable[Job],
    pace: Pace,
    workers: int,
    loaded: Sequence[str] = (),
    opens: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """Seconds from now until each job is done; stops at the first job whose duration is unknown.

    Each job goes to the worker that is free first. ``loaded``: the workers' models; ``opens``: seconds until each
    closed gate opens. Running jobs of one worker, in its pass or held, end together.
    """
    count = max(1, workers)
    free, models = [0.0] * count, [*loaded, *[""] * count][:count]
    times: dict[str, float] = {}
    held: dict[str, list[Job]] = defaultdict(list)
    for job in running:
        held[job.worker or job.id].append(job)
    for place, jobs in enumerate(held.values()):
        for job in jobs:
            left = seconds_left(job, pace, models[place % count])
            if left is None:
                return times
            free[place % count] += left
            models[place % count] = job.params.model
        times |= {job.id: free[place % count] for job in jobs}
    for job in waiting:
        first = free.index(min(free))
        left = seconds_left(job, pace, models[first])
        if left is None:
            return times
        free[first] = max(free[first], (opens or {}).get(job.gate, 0.0)) + left
        models[first] = job.params.model
        times[job.id] = free[first]
    return times


def total_seconds(
    running: Iterable[Job], waiting: Mapping[Work, int], pace: Pace, workers: int, loaded: Sequence[str] = ()
) -> float | None:
    """Seconds until all jobs are done; None if any duration is unknown."""
    seconds, models = 0.0, set(loaded)
    for job in running:
        left = seconds_left(job, pace, job.params.model)
        if left is None:
            return None
        seconds += left
        models.add(job.params.model)
    for work, count in waiting.items():
        each = pace.queued_seconds(work)
        if each is None:
            return None
        seconds += count * each
    pictures: Counter[str] = Counter()
    for work, count in waiting.items():
        pictures[work.model] += count
    seconds += sum(pace.queued_loads(model, count, model in models) for model, count in pictures.items())
    return seconds / max(1, workers)
