"""Growth of every parser's time with the length of adversarial input.

    python scripts/bench_parsing.py [--length 200000] [--record scripts/results/parsing.json]

Each parser of `tests/cost/parsers.py` reads every text of `tests/cost/texts.py` at an eighth of the length; the three
slowest are then read at an eighth, a quarter, a half and the full length, each time the best of three, until a time
limit. The exponent is the slope of log time over log length for the worst of the three: 1 is linear, 2 quadratic. Times
below a millisecond say nothing about growth, so a parser that reads little or rejects long input has no exponent.
"""

import argparse
import gc
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contextlib

from bench_record import conditions, publish

from tests.cost.parsers import PARSERS, REFUSALS, Parser
from tests.cost.texts import texts

SHARES = (8, 4, 2, 1)  # divisors of the length
TRIES = 3
WORST = 3
LEAST_SECONDS = 0.001
MOST_SECONDS = 20.0  # a text that takes longer is not read at twice the length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=200_000)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    gc.disable()  # collections would be counted as the parser's work
    measured = [grown(each, options.length) for each in PARSERS]
    exponents = [each["exponent"] for each in measured if each["exponent"] is not None]
    record = {
        **conditions(),
        "lengths": [options.length // share for share in SHARES],
        "largest_exponent": max(exponents, default=None),
        "slowest_seconds": max(each["seconds"][-1] for each in measured),
        "parsers": measured,
    }
    publish(record, options.record)


def grown(parser: Parser, length: int) -> dict[str, Any]:
    """The slowest kind of text for a parser, its seconds at each length, and the exponent."""
    short = [(seconds(parser, text, 1), name) for name, text in texts(length // SHARES[0])]
    rows = [row(parser, name, length) for _, name in sorted(short, reverse=True)[:WORST]]
    worst = max(rows, key=lambda each: (each["exponent"] or 0.0, each["seconds"][-1]))
    return {"parser": parser.name, "module": parser.module} | worst


def row(parser: Parser, name: str, length: int) -> dict[str, Any]:
    found: list[float] = []
    for share in SHARES:
        if found and found[-1] > MOST_SECONDS:
            break
        found.append(seconds(parser, dict(texts(length // share))[name], TRIES))
    return {"text": name, "seconds": [round(each, 5) for each in found], "exponent": exponent(found)}


def exponent(found: list[float]) -> float | None:
    """The slope of the least-squares line through (log length, log seconds); None if times are too short."""
    if found[0] < LEAST_SECONDS:
        return None
    across = [place * math.log(2) for place in range(len(found))]
    up = [math.log(each) for each in found]
    middle, height = sum(across) / len(across), sum(up) / len(up)
    slope = sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True))
    return round(slope / sum((x - middle) ** 2 for x in across), 2)


def seconds(parser: Parser, text: str, tries: int) -> float:
    """Least CPU time of several tries; unlike wall time, it excludes other programs."""
    best = math.inf
    for _ in range(tries):
        began = time.process_time()
        with contextlib.suppress(REFUSALS):
            parser.read(text)
        best = min(best, time.process_time() - began)
    return best


if __name__ == "__main__":
    main()
