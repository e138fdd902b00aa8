"""What the benchmarks share: the facts that each record states, its figures, and how it is printed and written."""

import json
import os
import platform
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

#: Options that are paths of this machine, which a record must not contain.
PATH_OPTIONS = ("--out", "--folder", "--kernels", "--record", "--home")
#: A list of numbers, which is written in one line.
NUMBERS = re.compile(r"\[\s*([-+.e\d,\s]+?)\s*\]")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def command() -> str:
    """This process's command line, without paths of this machine."""
    words, value_follows = [f"scripts/{Path(sys.argv[0]).name}"], False
    for word in sys.argv[1:]:
        if not value_follows and word.partition("=")[0] not in PATH_OPTIONS:
            words.append(word)
        value_follows = word in PATH_OPTIONS
    return " ".join(["python", *words])


def conditions(*packages: str) -> dict[str, Any]:
    """Date, command, device, load, and the versions of Python and of packages."""
    return {
        "date": date.today().isoformat(),
        "command": command(),
        "device": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "load_1_min": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
    }


def publish(record: dict[str, Any], file: Path | None) -> None:
    """Print a record, and write it into a file if one is given."""
    text = NUMBERS.sub(
        lambda found: f"[{' '.join(found[1].split())}]", json.dumps(record, indent=2, ensure_ascii=False)
    )
    print(text)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


def percentiles(seconds: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, 95th percentile and largest of at least two durations, in milliseconds, and their number."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    found = {"p50": cuts[9], "p95": cuts[18], "max": max(seconds)}
    return {name: round(value * 1000, digits) for name, value in found.items()} | {"n": len(seconds)}


def chromium() -> str:
    """The path of an installed Chromium. Exits without one."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        sys.exit(f"no Chromium found; looked for {', '.join(BROWSERS)}")
    return path
