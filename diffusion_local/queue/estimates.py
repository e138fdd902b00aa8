"""Estimates of time from this machine's own history. Pure arithmetic; the store brings the numbers.

A kind of picture (``Work``) that was made before takes what it took then: the median of the newest, made on the rung of
the memory policy that the newest had and in the largest passes among them (the last of a list run in smaller ones). One
that was not takes what a line through the
model's other pictures says, over their cost in step-megapixels. Where a model has made nothing there is no guess.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Self

from diffusion_local.domain import Job, Lane
from diffusion_local.options.table import Params

NEWEST = 20  # pictures of one kind that its median is of
MOST_KINDS = 12  # newest kinds of picture that a model's line goes through


@dataclass(frozen=True, slots=True)
class JobTimings:
    """How a picture came to be, in seconds; ``expected`` was estimated before, ``load`` and ``run`` took place.

    ``run`` is the picture's share of a forward pass of ``together`` pictures, on ``rung`` of the memory policy.
    """

    run: float
    load: float = 0.0
    expected: float | None = None
    rung: str = ""
    together: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """What a picture's time depends on, as far as it is known before it is made."""

    model: str
    kind: str
    pixels: int
    steps: int

    @classmethod
    def of(cls, params: Params) -> Self:
        return cls(params.model, str(params.kind), params.width * params.height, params.steps)

    @property
    def cost(self) -> float:
        """Step-megapixels."""
        return self.steps * self.pixels / 1e6


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """A picture that was made: ``seconds`` without loading the model, its share of a forward pass of ``together``."""

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
        """The median line (Theil and Sen) through (cost, seconds); neither part of it is negative."""
        if not points:
            return None
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
        if not slopes or median(slopes) <= 0:  # one size only, or noise: in proportion
            each = [seconds / cost for cost, seconds in points if cost > 0]
            return cls(0.0, median(each)) if each else None
        slope = median(slopes)
        base = median(seconds - slope * cost for cost, seconds in points)
        return cls(base, slope) if base >= 0 else cls(0.0, median(s / c for c, s in points if c > 0))

    def at(self, cost: float) -> float:
        return self.base + self.slope * cost


@dataclass(slots=True)
class Pace:
    """What was learned of some models."""

    known: dict[Work, float] = field(default_factory=dict)
    shares: dict[Work, list[Share]] = field(default_factory=dict)  # by size of the pass, the smallest first
    lines: dict[tuple[str, str], LinearFit] = field(
        default_factory=dict
    )  # by model and kind; kind "" for all of a model
    loads: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, history: Iterable[FinishedPicture]) -> Self:
        """Learn from pictures, the newest first."""
        by_work: dict[Work, list[FinishedPicture]] = defaultdict(list)
        loads: dict[str, list[float]] = defaultdict(list)
        for made in history:
            if made.seconds > 0:
                by_work[made.work].append(made)
            if made.load_seconds:
                loads[made.work.model].append(made.load_seconds)
        pace = cls(loads={model: median(each[:NEWEST]) for model, each in loads.items()})
        points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for work, each in by_work.items():
            by_size: dict[int, list[float]] = defaultdict(list)
            for made in each:
                if made.rung == each[0].rung:
                    by_size[made.together].append(made.seconds)
            pace.shares[work] = [
                Share(size, median(found[:NEWEST]), len(found)) for size, found in sorted(by_size.items())
            ]
            largest = max(made.together for made in each[:NEWEST] if made.rung == each[0].rung)
            pace.known[work] = median(by_size[largest][:NEWEST])
            for key in ((work.model, work.kind), (work.model, "")):
                points[key].append((work.cost, pace.known[work]))
        lines = {key: LinearFit.through(found[:MOST_KINDS]) for key, found in points.items()}
        pace.lines = {key: line for key, line in lines.items() if line}
        return pace

    def seconds(self, work: Work, together: int | None = None) -> float | None:
        """What one picture takes with its model loaded, in passes of ``together`` where that is told and known; None if
        nothing is known."""
        for share in self.shares.get(work, ()):
            if share.together == together:
                return share.seconds
        if work in self.known:
            return self.known[work]
        line = self.lines.get((work.model, work.kind)) or self.lines.get((work.model, ""))
        return line.at(work.cost) if line else None

    def load(self, model: str, loaded: str) -> float:
        """What it takes to have the model in memory."""
        return 0.0 if model == loaded else self.loads.get(model, 0.0)


def seconds_left(job: Job, pace: Pace, loaded: str = "") -> float | None:
    """Seconds a job still needs once it runs (all of it, and its model's load, if it waits); of a pass, its share."""
    known = pace.seconds(Work.of(job.params), 1 if job.lane is Lane.INTERACTIVE else None)
    if known is None:
        return None
    load = 0.0 if job.step else pace.load(job.params.model, loaded)
    return load + known * max(0.0, 1 - job.step / job.params.steps)


def finish_times(
    running: Iterable[Job],
    waiting: Iterable[Job],
    pace: Pace,
    workers: int,
    loaded: Sequence[str] = (),
    opens: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """Seconds from now until each job is done, where what all before it take is known.

    Jobs are dealt in order to the worker that is free first; ``loaded`` has the workers' models, ``opens`` the seconds
    until each gate that is closed opens. What one worker runs, in one pass or put aside, ends when all of it does.
    """
    hands = max(1, workers)
    free, models = [0.0] * hands, [*loaded, *[""] * hands][:hands]
    times: dict[str, float] = {}
    held: dict[str, list[Job]] = defaultdict(list)
    for job in running:
        held[job.worker or job.id].append(job)
    for place, jobs in enumerate(held.values()):
        for job in jobs:
            left = seconds_left(job, pace, models[place % hands])
            if left is None:
                return times
            free[place % hands] += left
            models[place % hands] = job.params.model
        times |= {job.id: free[place % hands] for job in jobs}
    for job in waiting:
        first = free.index(min(free))
        left = seconds_left(job, pace, models[first])
        if left is None:
            return times
        free[first] = max(free[first], (opens or {}).get(job.gate, 0.0)) + left
        models[first] = job.params.model
        times[job.id] = free[first]
    return times


def total(
    running: Iterable[Job], waiting: Mapping[Work, int], pace: Pace, workers: int, loaded: Sequence[str] = ()
) -> float | None:
    """Seconds until everything is done, each model being loaded once; None while something is not known."""
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
    seconds += sum(pace.load(model, "") for model in {work.model for work in waiting} - models)
    return seconds / max(1, workers)
