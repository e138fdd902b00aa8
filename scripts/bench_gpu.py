"""Speed and memory of the engine on a real GPU: CUDA graphs, rungs, small cards, LoRAs, cancel, switches, a DiT.

Models have real architectures and random weights (``bench_models``), so speed and memory are those of real ones. The
most important measurements come first, and each is recorded as soon as it is made; none is started once ``--budget``
(seconds) is used up. ``--tiny`` runs everything without a GPU in a minute.

    python scripts/bench_gpu.py --budget 260

It needs torch, diffusers, transformers, accelerate, psutil and the imports of the store and the settings (sqlite-utils,
filelock, platformdirs, python-ulid), but neither the page nor the queue, so that few packages must be copied to a GPU
machine without a network.
"""

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from bench_gpu_rungs import on_a_card, on_a_rung, out_of_memory, switches
from bench_gpu_setup import (
    Bench,
    Spent,
)
from bench_gpu_transformers import flux, transformer
from bench_gpu_unets import cancel, fused, graphs, loras, resident

from diffusion_local.settings import go_offline, keep_kernels

RESULT = Path(__file__).parent / "results" / "gpu-engine.json"


def story(bench: Bench) -> None:
    """Run all measurements, most important first, with as few model loads as that order allows."""
    record = bench.record
    record("sd15 made", lambda: bench.make("sd15"))
    record("sd15 resident", lambda: resident(bench, "sd15"))
    record("sd15 graphs", lambda: graphs(bench, "sd15"))
    record("sd15 fused", lambda: fused(bench, "sd15"))
    record("sd15 cancel", lambda: cancel(bench, "sd15"))
    record("sdxl made", lambda: bench.make("sdxl"))
    record("sdxl resident", lambda: resident(bench, "sdxl"))
    record("sdxl graphs", lambda: graphs(bench, "sdxl"))
    record("sdxl fused", lambda: fused(bench, "sdxl"))
    record("sdxl cancel", lambda: cancel(bench, "sdxl"))
    record("dit", lambda: transformer(bench))
    record("flux", lambda: flux(bench))
    record("sd15 loras", lambda: loras(bench, "sd15"))
    bench.engine.unload()
    record("sdxl in 12 GiB", lambda: on_a_card(bench, "sdxl", 12))
    record("sdxl in 8 GiB", lambda: on_a_card(bench, "sdxl", 8))
    record("sdxl in 8 GiB by model_offload", lambda: on_a_card(bench, "sdxl", 8, "model_offload"))
    record("sdxl out of memory", lambda: out_of_memory(bench, "sdxl", 7.2))
    for rung in ("vae_tiling", "encoder_offload", "block_streaming", "model_offload", "group_offload"):
        record(f"sdxl {rung}", lambda rung=rung: on_a_rung(bench, "sdxl", rung))
    record("sdxl in 6 GiB", lambda: on_a_card(bench, "sdxl", 6))
    record("sdxl in 6 GiB by model_offload", lambda: on_a_card(bench, "sdxl", 6, "model_offload"))
    record("sdxl sequential", lambda: on_a_rung(bench, "sdxl", "sequential"))
    for rung in ("vae_tiling", "encoder_offload", "block_streaming", "model_offload", "group_offload", "sequential"):
        record(f"sd15 {rung}", lambda rung=rung: on_a_rung(bench, "sd15", rung))
    record("switch", lambda: switches(bench, 9.2))
    record("sd15 in 6 GiB", lambda: on_a_card(bench, "sd15", 6))
    record("sd15 in 2 GiB", lambda: on_a_card(bench, "sd15", 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: to try the script")
    parser.add_argument("--budget", type=float, default=600, help="seconds after which no measurement is begun")
    parser.add_argument("--folder", type=Path, help="where the models are made: 10 GB; a RAM disk is fastest")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only the measurements whose names begin so")
    parser.add_argument("--speed", choices=("exact", "fast", "fastest"), default="exact", help="the setting")
    parser.add_argument("--kernels", type=Path, help="where compiled kernels are kept for a later run")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)  # shows why something ran without a graph
    shared = Path("/dev/shm")
    folder = options.folder or (shared if shared.is_dir() and not options.tiny else Path(tempfile.gettempdir()))
    place = Path(tempfile.mkdtemp(prefix="bench-gpu-", dir=folder))
    go_offline(place)
    keep_kernels(options.kernels or place / "kernels")
    try:
        bench = Bench(options, place)
        story(bench)
    except Spent:
        print("the budget is spent", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return int(any(isinstance(found, dict) and "failed" in found for found in bench.results.values()))


if __name__ == "__main__":
    sys.exit(main())
