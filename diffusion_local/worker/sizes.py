"""Chooses how many pictures of a list share a pass, by the gain measured on this device."""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from statistics import median

from diffusion_local.domain import Job, Kind, Lane, Params
from diffusion_local.engine import MOST_TOGETHER
from diffusion_local.queue.estimates import MEDIAN_PICTURES, Share, Work

#: Longest allowed step, in seconds: an interactive job waits for the running step.
LONGEST_STEP = 0.5
#: Doubling the size must save this share of a picture's time, or larger sizes are not tried.
LEAST_GAIN = 0.015
#: Passes of a size to measure before judging it.
PASSES = 2


class PassSizes:
    """``wanted`` is the setting ``batch_size``: a number, or ``auto``.

    ``explores``: whether ``auto`` tries larger passes; otherwise it uses sizes already measured to be faster.
    ``history`` returns durations of earlier pictures. One thread may ask while another records.
    """

    def __init__(self, wanted: str, explores: bool, history: Callable[[Params], list[Share]]) -> None:
        self._fixed = 0 if wanted == "auto" else int(wanted)
        self._explores = explores
        self._history = history
        self._known: dict[Work, dict[int, deque[float]]] = {}
        self._met: dict[Work, set[int]] = defaultdict(set)

    def size_for(self, job: Job) -> int:
        """Pictures that should share a pass with this job's, its own included. Raises DatabaseProblem."""
        params = job.params
        if job.lane is not Lane.BATCH or job.crashes or params.kind is Kind.UPSCALE or params.place:
            return 1
        if self._fixed:
            return min(self._fixed, MOST_TOGETHER)
        work = Work.of_params(params)
        if work not in self._known:
            known = {
                share.together: deque([share.seconds] * share.count, MEDIAN_PICTURES) for share in self._history(params)
            }
            self._known[work] = known
        enough = {size: median(found) for size, found in self._known[work].items() if len(found) >= PASSES * size}
        return best_size(enough, params.total_steps, self._explores)

    def record(self, params: Params, together: int, seconds: float) -> None:
        """Record the seconds per picture of a pass. The first pass of a size records CUDA graphs and is ignored."""
        work = Work.of_params(params)
        if together in self._met[work]:
            self._known.setdefault(work, {}).setdefault(together, deque(maxlen=MEDIAN_PICTURES)).extend(
                [seconds] * together
            )
        self._met[work].add(together)


def best_size(known: Mapping[int, float], steps: int, explores: bool) -> int:
    """The size to use or to measure next. ``known``: seconds per picture by pass size."""

    def bearable(size: int, seconds: float) -> bool:
        return size == 1 or size * seconds / steps <= LONGEST_STEP

    size = 1
    while explores:
        if size not in known:
            if max(known, default=0) < size:
                return size
            # Smaller sizes were measured before this one, too long ago to be in the history.
        elif size > 1 and size // 2 in known and known[size] > (1 - LEAST_GAIN) * known[size // 2]:
            break
        if 2 * size > MOST_TOGETHER or (size in known and not bearable(2 * size, known[size])):
            break
        size *= 2
    found = {each: seconds for each, seconds in known.items() if bearable(each, seconds)}
    if not found or (1 not in found and not explores):
        return 1
    fastest = min(found.values())
    return min(each for each, seconds in found.items() if seconds <= 1.01 * fastest)
