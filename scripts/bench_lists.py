"""Cost of accepting a long prompt list: seconds and memory of the dry run, the submit and the export.

    python scripts/bench_lists.py [--lines 10000 100000] [--record scripts/results/lists.json]

Each length runs in its own process and home. Every line has a choice, a wildcard with 200 options and two flags. Memory
is the growth of the process's peak, without the list's own bytes; `write_lock_seconds` is the longest time for which
another writer (such as a worker's report) had to wait.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_record import conditions, publish

from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings

LINE = "a {{red|blue|green}} __animal__ number {0} in a quiet garden by the sea --seed {0} --steps 20\n"


def main() -> None:
    run_as(LOCAL)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one)))
        return
    record = {
        **conditions("sqlite-utils", "huey", "tokenizers"),
        "lists": [in_a_process(count) for count in options.lines],
    }
    publish(record, options.record)


def in_a_process(count: int) -> dict[str, Any]:
    child = subprocess.run([sys.executable, __file__, "--one", str(count)], stdout=subprocess.PIPE, check=True)
    return json.loads(child.stdout)


def measured(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        services = open_services(Settings.load({}, home=Path(home), engine="fake"))
        options = "\n".join(f"animal {number}" for number in range(200))
        (services.settings.wildcards / "animal.txt").write_text(options, encoding="utf-8")
        lists = services.studio.lists
        lists.submit("a {red|blue} __animal__")  # warm-up: imports everything
        services.studio.queue.cancel(waiting=True)
        data = "".join(map(LINE.format, range(count))).encode()
        before = peak_mb()
        check_seconds, check = timed(lambda: lists.check(data))
        after_check = peak_mb()
        lock = Lock(services)
        submit_seconds, receipt = timed(lambda: lists.submit(data))
        longest = lock.longest()
        after_submit = peak_mb()
        export_seconds, lines = timed(lambda: sum(1 for _ in lists.export(receipt.batch_id, "jsonl")))
        if not check.pictures == receipt.count == lines == count:
            raise RuntimeError(f"{check.pictures}, {receipt.count} and {lines} are not {count}")
        return {
            "lines": count,
            "list_mb": round(len(data) / 1e6, 1),
            "check_seconds": round(check_seconds, 2),
            "submit_seconds": round(submit_seconds, 2),
            "export_seconds": round(export_seconds, 2),
            "write_lock_seconds": round(longest, 2),
            "check_memory_mb": round(after_check - before, 1),
            "submit_memory_mb": round(after_submit - before, 1),
            "process_peak_mb": round(after_submit, 1),
            "database_mb": round(services.settings.database_file.stat().st_size / 1e6, 1),
        }


class Lock:
    """Measures the longest time that another writer waits while a list is submitted."""

    def __init__(self, services: Services) -> None:
        self._house = services
        self._waits = [0.0]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def longest(self) -> float:
        self._stop.set()
        self._thread.join()
        return max(self._waits)

    def _write(self) -> None:
        while not self._stop.wait(0.05):
            self._waits.append(
                timed(lambda: self._house.studio.queue.set_priority(0, batch_id=first_batch(self._house)))[0]
            )
        self._house.database.close()


def first_batch(services: Services) -> str:
    return services.studio.jobs(state="cancelled", limit=1)[0].batch_id


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def peak_mb() -> float:
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
