"""Time estimates from this machine's own history. Pure arithmetic; stores supply the numbers.

A kind of picture (``Work``) made before takes the median of its newest pictures: of those on the same memory rung as
the newest, and in the largest passes among them (the last pictures of a list run in smaller ones). An unknown kind is
estimated by a line through the model's other pictures, over their cost in step-megapixels. A model without history has
no estimate.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Self

from diffusion_local.domain import Job, Lane
from diffusion_local.options.table import Params

MEDIAN_PICTURES = 20  # pictures per kind in a median
LINE_KINDS = 12  # kinds of picture in a model's line, newest first


@dataclass(frozen=True, slots=True)
class JobTimings:
    """Measured times of a finished job, in seconds. ``expected``: estimate made beforehand; ``load``: loading the
    model.

    ``run``: this picture's share of a forward pass of ``together`` pictures, on memory rung ``rung``.
    """

    run: float
    load: float = 0.0
    expected: float | None = None
    rung: str = ""
    together: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """The known facts that a picture's duration depends on."""

    model: str
    kind: str
    pixels: int
    steps: int

    @classmethod
    def of_params(cls, params: Params) -> Self:
        return cls(params.model, str(params.kind), *params.paced)

    @property
    def cost(self) -> float:
        """Step-megapixels."""
        return self.steps * self.pixels / 1e6


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """A finished picture. ``seconds``: without model load, its share of a forward pass of ``together`` pictures."""

    work: Work
    seconds: float
    load_seconds: float | None = None
    rung: str = ""
    together: int = 1


@dataclass(frozen=True, slots=True)
class Share:
    """What a picture took in passes of ``together``: the median of ``count`` pictures, in seconds."""

    together: int
    seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class LinearFit:
    """Seconds as ``base + slope * cost``."""

    base: float
    slope: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Self | None:
        """The Theil-Sen line through (cost, seconds), without negative coefficients; None without points."""
        if not points:
            return None
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
        if not slopes or median(slopes) <= 0:  # a single size, or noise: assume proportionality
            each = [seconds / cost for cost, seconds in points if cost > 0]
            return cls(0.0, median(each)) if each else None
        slope = median(slopes)
        base = median(seconds - slope * cost for cost, seconds in points)
        return cls(base, slope) if base >= 0 else cls(0.0, median(s / c for c, s in points if c > 0))

    def at(self, cost: float) -> float:
        return self.base + self.slope * cost


@dataclass(slots=True)
class Pace:
    """Learned durations of some models."""

    medians: dict[Work, float] = field(default_factory=dict)
    shares: dict[Work, list[Share]] = field(default_factory=dict)  # by pass size, ascending
    lines: dict[tuple[str, str], LinearFit] = field(
        default_factory=dict
    )  # by model and kind; kind "" for all of a model
    loads: dict[str, float] = field(default_factory=dict)

    @classmethod
    def learn(cls, history: Iterable[FinishedPicture]) -> Self:
        """Learn from finished pictures, newest first."""
        by_work: dict[Work, list[FinishedPicture]] = defaultdict(list)
        loads: dict[str, list[float]] = defaultdict(list)
        for made in history:
            if made.seconds > 0:
                by_work[made.work].append(made)
            if made.load_seconds:
                loads[made.work.model].append(made.load_seconds)
        pace = cls(loads={model: median(each[:MEDIAN_PICTURES]) for model, each in loads.items()})
        points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for work, each in by_work.items():
            by_size: dict[int, list[float]] = defaultdict(list)
            for made in each:
                if made.rung == each[0].rung:
                    by_size[made.together].append(made.seconds)
            pace.shares[work] = [
                Share(size, median(found[:MEDIAN_PICTURES]), len(found)) for size, found in sorted(by_size.items())
            ]
            largest = max(made.together for made in each[:MEDIAN_PICTURES] if made.rung == each[0].rung)
            pace.medians[work] = median(by_size[largest][:MEDIAN_PICTURES])
            for key in ((work.model, work.kind), (work.model, "")):
                points[key].append((work.cost, pace.medians[work]))
        lines = {key: LinearFit.through(found[:LINE_KINDS]) for key, found in points.items()}
        pace.lines = {key: line for key, line in lines.items() if line}
        return pace

    def seconds(self, work: Work, together: int | None = None) -> float | None:
        """Seconds for one picture with its model loaded, in passes of ``together`` pictures if that is given and known.

        None if unknown.
        """
        for share in self.shares.get(work, ()):
            if share.together == together:
                return share.seconds
        if work in self.medians:
            return self.medians[work]
        line = self.lines.get((work.model, work.kind)) or self.lines.get((work.model, ""))
        return line.at(work.cost) if line else None

    def load_seconds(self, model: str, loaded: str) -> float:
        """Seconds to load the model, 0 if it is ``loaded``."""
        return 0.0 if model == loaded else self.loads.get(model, 0.0)


def seconds_left(job: Job, pace: Pace, loaded: str = "") -> float | None:
    """Seconds a job still needs once it runs (its share of a pass); for a queued job with its model's load."""
    known = pace.seconds(Work.of_params(job.params), 1 if job.lane is Lane.INTERACTIVE else None)
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
    """Seconds from now until each job is done; ends at the first job whose duration is unknown.

    Jobs go in order to the worker that is free first. ``loaded``: the workers' models; ``opens``: seconds until each
    closed gate opens. The running jobs of one worker, in one pass or set aside, end together.
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
    """Seconds until all jobs are done, loading each model once; None if any duration is unknown."""
    seconds, models = 0.0, set(loaded)
    for job in running:
        left = seconds_left(job, pace, job.params.model)
        if left is None:
            return None
        seconds += left
        models.add(job.params.model)
    for work, count in waiting.items():
        each = pace.seconds(work)
        if each is None:
            return None
        seconds += count * each
    seconds += sum(pace.load_seconds(model, "") for model in {work.model for work in waiting} - models)
    return seconds / max(1, workers)
