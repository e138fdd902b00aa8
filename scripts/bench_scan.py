"""Duration of a scan of all models: the first one, and one of unchanged files.

    python scripts/bench_scan.py

The files are those of ``tests/models/headers.jsonl.xz``: real headers, with sparse data. The record is written to
``scripts/results/scan.json``. If other programs run meanwhile, compare CPU times.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench_record import conditions, publish  # noqa: E402

from diffusion_local.models.directories import ModelDirectories  # noqa: E402
from diffusion_local.models.index import ModelIndex  # noqa: E402
from diffusion_local.models.parts import VAE  # noqa: E402
from diffusion_local.models.probe import LORA  # noqa: E402
from tests.models.headers import published, write_published  # noqa: E402

RUNS = 5


def look(index: ModelIndex) -> tuple[float, float, int]:
    """Scan once: (wall seconds, CPU seconds, number of entries)."""
    wall, own = time.perf_counter(), time.process_time()
    count = len(index.entries()) + len(index.adapters(LORA)) + len(index.adapters(VAE))
    return time.perf_counter() - wall, time.process_time() - own, count


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for file in published():
            write_published(home, file)
        places = ModelDirectories(models=home / "models", loras=home / "loras", vae=home / "parts")
        first, again = [], []
        for _ in range(RUNS):
            index = ModelIndex(places)
            first.append(look(index))
            again.append(look(index))
    record = {
        **conditions(),
        "files": len(published()),
        "entries": first[0][2],
        "runs": RUNS,
        "first_seconds": round(statistics.median(each[0] for each in first), 3),
        "first_cpu_seconds": round(statistics.median(each[1] for each in first), 3),
        "again_seconds": round(statistics.median(each[0] for each in again), 4),
        "again_cpu_seconds": round(statistics.median(each[1] for each in again), 4),
        "heavy_imports": sorted({"torch", "diffusers", "transformers", "numpy"} & set(sys.modules)),
    }
    publish(record, ROOT / "scripts" / "results" / "scan.json")


if __name__ == "__main__":
    main()
