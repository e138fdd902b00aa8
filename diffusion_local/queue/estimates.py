"""Time estimates from this machine's own history. Pure arithmetic; stores supply the numbers.

The estimate for a known kind of picture (``Work``) is the mean of its newest pictures without outliers, of those on the
newest one's memory rung and in passes of the same size. An unknown kind is estimated by a line fitted to the model's
other pictures over their cost in step-megapixels; a pass size that the kind has not run in, by the ratio of such lines.
Pictures remade alone after a crash, and slow first passes, count only if nothing else is known. A model without history
has no estimate.

The time until a list is done also includes gaps between pictures and lost time (both from ``work_hours``), the model
loads that the order of the queue causes, and passes only as large as neighbours in the queue allow (``Outlook``).
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from statistics import mean, median
from typing import Self, TypeVar

from diffusion_local.options.table import Params
from diffusion_local.options.values import MOST_TOGETHER
from diffusion_local.queue.pass_sizes import best_size

Key = TypeVar("Key", bound=Hashable)

MEDIAN_PICTURES = 20  # newest pictures per kind and size of pass that are averaged
OUTLIER = 5.0  # durations that differ from the median by more than this factor are ignored
DRIFT_PICTURES = 24  # newest pictures of a model that are compared with the learned durations
LEAST_DRIFT_PICTURES = 10
LARGEST_DRIFT = 2.0
WARM_UP = 1.5  # first passes that take longer than usual by this factor are untypical: they captured CUDA graphs
LINE_KINDS = 12  # newest kinds of picture to which a model's line is fitted


@dataclass(frozen=True, slots=True)
class JobTimings:
    """Measured times of a finished job, in seconds.

    ``run``: this picture's share of a pass of ``together`` pictures, on memory rung ``rung``; ``load``: loading the
    model; ``expected``: estimate made beforehand. ``together`` 0: two GPUs made it, and estimates do not learn from it.
    ``warm_up``: it was in the first pass of its kind and size in the worker's process, which may capture CUDA graphs.
    """

    run: float
    load: float = 0.0
    expected: float | None = None
    rung: str = ""
    together: int = 1
    warm_up: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of picture: the known facts on which its duration depends."""

    model: str
    kind: str
    pixels: int
    steps: int

    @classmethod
    def of_params(cls, params: Params) -> Self:
        return cls(params.model, str(params.kind), *params.paced)

    @property
    def cost(self) -> float:
        """Cost in step-megapixels."""
        return self.steps * self.pixels / 1e6


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """A finished picture. ``seconds``: its share of a pass of ``together`` pictures, without loading the model.

    ``crashes``: workers that crashed with it before; such a picture runs alone, which tells nothing about passes.
    ``warm_up``: as in JobTimings.
    """

    work: Work
    seconds: float
    load_seconds: float | None = None
    rung: str = ""
    together: int = 1
    crashes: int = 0
    warm_up: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """Seconds per picture in passes of ``together`` pictures: the mean of ``count`` pictures without outliers."""

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


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the first queued jobs, in execution order, predict for the jobs behind them.

    ``runs``: by kind of picture, the lengths of the runs of neighbours that can share a pass; ``loads``: by model,
    loads per picture.
    """

    runs: Mapping[Work, Sequence[int]] = field(default_factory=dict)
    loads: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_line(cls, line: Iterable[tuple[Work, Hashable]], loaded: str = "") -> Self:
        """From (work, key) per job: jobs with equal keys can share a pass, which takes only jobs of one model."""
        runs: dict[Work, list[int]] = defaultdict(list)
        last: dict[str, Hashable] = {}
        loads: Counter[str] = Counter()
        jobs: Counter[str] = Counter()
        for work, key in line:
            if last.get(work.model) == (work, key):
                runs[work][-1] += 1
            else:
                runs[work].append(1)
            last[work.model] = (work, key)
            loads[work.model] += work.model != loaded
            jobs[work.model] += 1
            loaded = work.model
        return cls(runs, {model: loads[model] / count for model, count in jobs.items()})


@dataclass(slots=True)
class Pace:
    """Learned durations of some models, and the overhead that the queue adds to them."""

    medians: dict[Work, float] = field(default_factory=dict)  # in the largest passes among the newest
    sizes: dict[Work, int] = field(default_factory=dict)  # pictures in these passes
    drifts: dict[str, float] = field(default_factory=dict)  # by model: newest durations relative to the learned ones
    outlook: Outlook = field(default_factory=Outlook)
    gap: float = 0.0  # seconds between pictures
    lost: float = 0.0  # share of the working time
    explores: bool = False  # whether workers try larger passes as long as they pay
    shares: dict[Work, list[Share]] = field(default_factory=dict)  # by pass size, ascending
    #: By model and kind; kind "" for all of a model.
    lines: dict[tuple[str, str], LinearFit] = field(default_factory=dict)
    #: By model and kind, and then by pass size.
    pass_lines: dict[tuple[str, str], dict[int, LinearFit]] = field(default_factory=dict)
    #: By model and kind, the pass size of most pictures.
    usual_sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    _best_sizes: dict[Work, int] = field(default_factory=dict)

    @classmethod
    def learn(cls, history: Iterable[FinishedPicture]) -> Self:
        """Learn from finished pictures, newest first. Untypical ones count only if nothing else is known."""
        history = list(history)
        sound = [made for made in history if not made.crashes and not made.warm_up]
        if len(sound) == len(history):
            return cls._learn(history)
        pace = cls._learn(sound)
        return cls._learn([made for made in history if not pace._is_untypical(made)])

    def _is_untypical(self, made: FinishedPicture) -> bool:
        """Whether a picture says less about its kind than the other pictures of its model."""
        usual = self.seconds_in_pass(made.work, made.together)
        if usual is None or not (made.crashes or made.warm_up):
            return False
        return bool(made.crashes) or made.seconds > WARM_UP * usual

    @classmethod
    def _learn(cls, history: Sequence[FinishedPicture]) -> Self:
        by_work: dict[Work, list[FinishedPicture]] = defaultdict(list)
        loads: dict[str, list[float]] = defaultdict(list)
        for made in history:
            if made.seconds > 0:
                by_work[made.work].append(made)
            if made.load_seconds:
                loads[made.work.model].append(made.load_seconds)
        pace = cls(loads={model: median(each[:MEDIAN_PICTURES]) for model, each in loads.items()})
        points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        pass_points: dict[tuple[str, str], dict[int, list[tuple[float, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        pictures: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        for work, each in by_work.items():
            by_size: dict[int, list[float]] = defaultdict(list)
            for made in each:
                if made.rung == each[0].rung:
                    by_size[made.together].append(made.seconds)
            pace.shares[work] = [
                Share(size, typical(found[:MEDIAN_PICTURES]), len(found)) for size, found in sorted(by_size.items())
            ]
            largest = max(made.together for made in each[:MEDIAN_PICTURES] if made.rung == each[0].rung)
            pace.sizes[work] = largest
            pace.medians[work] = typical(by_size[largest][:MEDIAN_PICTURES])
            for key in ((work.model, work.kind), (work.model, "")):
                points[key].append((work.cost, pace.medians[work]))
            for share in pace.shares[work]:
                pass_points[work.model, work.kind][share.together].append((work.cost, share.seconds))
            pictures[work.model, work.kind].update(made.together for made in each[:MEDIAN_PICTURES])
        pace.lines = fit_lines(points)
        pace.pass_lines = {key: fit_lines(by_size) for key, by_size in pass_points.items()}
        pace.usual_sizes = {key: counts.most_common(1)[0][0] for key, counts in pictures.items()}
        pace.drifts = {model: pace._drift(history, model) for model in {work.model for work in by_work}}
        return pace

    def _drift(self, history: Iterable[FinishedPicture], model: str) -> float:
        """Ratio of a model's newest durations to the learned ones; 1 if there are too few pictures."""
        newest = (made for made in history if made.work.model == model and made.seconds > 0)
        taken = known = count = 0.0
        for made in islice(newest, DRIFT_PICTURES):
            usual = self.seconds(made.work, made.together)
            if usual and usual / OUTLIER < made.seconds < usual * OUTLIER:
                taken, known, count = taken + made.seconds, known + usual, count + 1
        if count < LEAST_DRIFT_PICTURES:
            return 1.0
        return min(LARGEST_DRIFT, max(1 / LARGEST_DRIFT, taken / known))

    def seconds(self, work: Work, together: int | None = None) -> float | None:
        """Seconds for one picture with its model loaded; None if unknown.

        In passes of ``together`` pictures, if that is given and has been measured.
        """
        for share in self.shares.get(work, ()):
            if share.together == together:
                return share.seconds
        if work in self.medians:
            return self.medians[work]
        line = self.lines.get((work.model, work.kind)) or self.lines.get((work.model, ""))
        return line.at(work.cost) if line else None

    def queued_seconds(self, work: Work) -> float | None:
        """Seconds that a queued picture adds to the time until a list is done, without model loads; None if unknown."""
        runs, most = self.outlook.runs.get(work, ()), self._pass_size(work)
        passes: Counter[int] = Counter()  # pictures by the size of their pass
        for run in runs if most > 1 else ():
            whole, rest = divmod(run, most)
            passes[most] += whole * most
            passes[rest] += rest
        each = self.seconds(work)
        if passes:
            parts = [(count, self.seconds_in_pass(work, size)) for size, count in passes.items() if count]
            known = [(count, seconds) for count, seconds in parts if seconds is not None]
            if known:
                each = sum(count * seconds for count, seconds in known) / sum(count for count, _ in known)
        if each is None:
            return None
        return (each * self.drifts.get(work.model, 1.0) + self.gap) * (1 + self.lost)

    def _pass_size(self, work: Work) -> int:
        """Most pictures of this kind in a pass; for a kind that was rarely made, at least the model's usual size.

        Workers that still try larger passes are expected to arrive at the best size.
        """
        known = self.sizes.get(work, 1)
        if sum(share.count for share in self.shares.get(work, ())) < MEDIAN_PICTURES:
            known = max(known, self.usual_sizes.get((work.model, work.kind), 1))
        return max(known, self._best_size(work)) if self.explores else known

    def _best_size(self, work: Work) -> int:
        if work not in self._best_sizes:
            sizes = [1 << power for power in range(MOST_TOGETHER.bit_length())]
            curve = {size: seconds for size in sizes if (seconds := self._on_curve(work, size)) is not None}
            self._best_sizes[work] = best_size(curve, work.steps, True) if len(curve) > 1 else 1
        return self._best_sizes[work]

    def seconds_in_pass(self, work: Work, together: int) -> float | None:
        """Seconds for a picture in passes of this size; None if unknown.

        If the kind has not run in this size, the duration in the next smaller measured size is scaled by the ratio
        of the model's other pictures in the two sizes.
        """
        if work not in self.shares:
            seconds = self._on_curve(work, together)
            return self.seconds(work) if seconds is None else seconds
        known = self.shares[work]
        near = [share for share in known if share.together <= together][-1:] or known[:1]
        return near[0].seconds * self._gain(work, near[0].together, together)

    def _gain(self, work: Work, known: int, together: int) -> float:
        """Ratio of a picture's duration in passes of ``together`` to that in passes of ``known``; 1 if unknown."""
        before, after = self._on_curve(work, known), self._on_curve(work, together)
        if known == together or not before or after is None:
            return 1.0
        least, most = sorted((1.0, known / together))  # a pass takes at least as long as one of its pictures alone
        return min(most, max(least, after / before))

    def _on_curve(self, work: Work, together: int) -> float | None:
        """Seconds for a picture of this cost, from the model's pictures in passes of this size.

        Beyond the measured sizes, a pass is assumed to take a fixed time and an equal time for each picture, as in the
        two largest of them.
        """
        lines = {size: line.at(work.cost) for size, line in self.pass_lines.get((work.model, work.kind), {}).items()}
        if together in lines or len(lines) < 2 or together < max(lines):
            return lines.get(together)
        smaller, larger = sorted(lines)[-2:]
        fixed = max(0.0, (lines[smaller] - lines[larger]) / (1 / smaller - 1 / larger))
        return max(0.0, lines[larger] - fixed / larger) + fixed / together

    def queued_loads(self, model: str, pictures: int, loaded: bool) -> float:
        """Seconds for loading a model while this many pictures are made; at least one load if it is not ``loaded``."""
        times = max(float(not loaded), self.outlook.loads.get(model, 0.0) * pictures)
        return times * self.load_seconds(model, "") * (1 + self.lost)

    def load_seconds(self, model: str, loaded: str) -> float:
        """Seconds to load the model, 0 if it is ``loaded``."""
        return 0.0 if model == loaded else self.loads.get(model, 0.0)


def fit_lines(points: Mapping[Key, Sequence[tuple[float, float]]]) -> dict[Key, LinearFit]:
    lines = {key: LinearFit.through(found[:LINE_KINDS]) for key, found in points.items()}
    return {key: line for key, line in lines.items() if line}


def typical(seconds: Sequence[float]) -> float:
    """The mean without outliers: sums need the mean rather than the median, and a stalled picture is not typical."""
    middle = median(seconds)
    return mean(each for each in seconds if middle / OUTLIER <= each <= middle * OUTLIER)
