"""How many pictures should share a pass, from durations measured in passes of several sizes."""

from collections.abc import Mapping

from diffusion_local.options.values import MOST_TOGETHER

#: Longest allowed step, in seconds: an interactive job waits for the running step.
LONGEST_STEP = 0.5
#: Doubling the size must save this share of a picture's time, or larger sizes are not tried.
LEAST_GAIN = 0.015


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
    sizes = {each: seconds for each, seconds in known.items() if bearable(each, seconds)}
    if not sizes or (1 not in sizes and not explores):
        return 1
    fastest = min(sizes.values())
    return min(each for each, seconds in sizes.items() if seconds <= 1.01 * fastest)
