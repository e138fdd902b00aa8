"""Speed and memory of the engine on a real GPU: rungs, small cards, out of memory, seeds, cancel, switches, a DiT.

Models have the true architecture and random weights (``bench_models``), so speed and memory are those of real ones.
Each section is written to the result as soon as it is done. ``--tiny`` runs it all without a GPU in a minute.

    python scripts/bench_gpu.py                       all sections
    python scripts/bench_gpu.py --only sd15 sdxl oom  some, added to the result there is
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_models
import diffusers
import torch
import transformers

from diffusion_local.compose import open_house
from diffusion_local.domain import Params, utc_now
from diffusion_local.engine import Picture
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.memory import GIB, Choice
from diffusion_local.errors import Stopped
from diffusion_local.settings import Settings, go_offline
from diffusion_local.worker.ladder import Ladder

RESULT = Path(__file__).parent / "results" / "gpu-engine.json"
#: Side in pixels, steps, guidance: what the models' makers advise, SD 1.5 and SDXL at 20 steps.
WORK = {"sd15": (512, 20, 7.5), "sdxl": (1024, 20, 7.5), "sd3": (1024, 28, 4.5), "flux": (1024, 4, 0.0)}
FEW_STEPS = 4  # on the last rung, where a step takes seconds
CARDS = (8, 6)  # GiB
OOM_GIB = 7.2
QUICK = ("resident", "vae_tiling", "model_offload")  # rungs that are timed more than once


class Bench:
    """The models, a home for what is learned, and the device."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.tiny: bool = options.tiny
        self.dit: str = options.dit
        self.device = at_slot("cpu0" if self.tiny else "gpu0")
        home = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
        self.house = open_house(Settings.load({}, home=str(home)))
        self.models = self.house.settings.models
        self.made: dict[str, float] = {}

    def model(self, name: str) -> Any:
        """A catalogue entry; its folder is made when it is first asked for."""
        if name not in self.made:
            began = time.monotonic()
            bench_models.make(name, self.models / name, self.device.torch, self.tiny)
            self.made[name] = round(time.monotonic() - began, 1)
            self.empty()
        return self.house.catalog.get(name)

    def engine(self, limit_gib: float = 0) -> DiffusersEngine:
        self.empty()
        return DiffusersEngine(self.device, memory_limit=int(limit_gib * GIB))

    def params(self, name: str, seed: int = 1, steps: int = 0) -> Params:
        self.model(name)
        side, usual, guidance = WORK[name]
        if self.tiny:
            side, usual = 64, 2
        params = self.house.catalog.complete(
            "a red apple", {"model": name, "seed": seed, "sampler": "Euler", "width": side, "height": side}
        )
        return replace(params, steps=steps or usual, guidance=guidance)

    def empty(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0, self.device.torch)

    def draw(
        self,
        engine: DiffusersEngine,
        name: str,
        seed: int = 1,
        wanted: str = "auto",
        steps: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> tuple[float, Picture]:
        """Seconds and picture, as a worker makes it: with its ladder, and loaded first if need be."""
        ladder, params = Ladder(engine, self.house.fits, wanted), self.params(name, seed, steps)
        return timed(ladder.make, self.model(name), params, quiet, lambda: quiet, say or quiet)


def quiet(*_: Any) -> None:
    """Nobody listens."""


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return round(time.perf_counter() - began, 3), result


def by_rung(bench: Bench, name: str) -> dict[str, Any]:
    """Each rung, all of the GPU's memory: seconds a picture (after one to warm up) and peak."""
    engine, rows = bench.engine(), {}
    model = bench.model(name)
    for rung in engine.ladder:
        steps = FEW_STEPS if rung == engine.ladder[-1] and not bench.tiny else 0
        params = bench.params(name, steps=steps)
        need = engine.plan(model, params, [], rung).takes
        load, _ = timed(engine.load, model, Choice(rung))
        first, _ = timed(engine.generate, params, quiet)
        runs = [
            timed(engine.generate, replace(params, seed=seed), quiet) for seed in ((2, 3, 4) if rung in QUICK else (2,))
        ]
        seconds, facts = [run[0] for run in runs], runs[-1][1].facts
        rows[rung] = {
            "seconds_a_picture": min(seconds),
            "all": seconds,
            "steps": params.steps,
            "denoise_seconds": facts["denoise_seconds"],
            "first_seconds": first,
            "load_or_move_seconds": load,
            "peak_gib": gib(facts.get("peak_bytes", 0)),
            "estimated_gib": gib(need),
            "dtype": facts["dtype"],
        }
        print(name, rung, rows[rung], flush=True)
    engine.unload()
    return {"size": params.width, "made_in_seconds": bench.made[name], "rungs": rows}


def small_cards(bench: Bench) -> dict[str, Any]:
    """What is chosen where the allocator may take no more than a smaller card has, and what it costs."""
    rows: dict[str, Any] = {}
    for size in CARDS:
        for name in ("sd15", "sdxl"):
            engine = bench.engine(size)
            first, _ = bench.draw(engine, name)
            runs = [bench.draw(engine, name, seed) for seed in (2, 3)]
            facts = runs[-1][1].facts
            rows[f"{name} in {size} GiB"] = {
                "rung": facts["rung"],
                "why": runs[0][1].facts["rung_why"],
                "seconds_a_picture": min(run[0] for run in runs),
                "first_with_load_seconds": first,
                "peak_gib": gib(facts.get("peak_bytes", 0)),
                "steps_down": facts.get("steps_down", []),
            }
            print(size, name, rows[f"{name} in {size} GiB"], flush=True)
            engine.unload()
    return rows


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """SDXL forced to stay in 7.2 GiB: it runs out, steps down by itself and ends; the next picture starts there."""
    said: list[str] = []
    engine = bench.engine(0 if bench.tiny else OOM_GIB)
    seconds, picture = bench.draw(engine, "sdxl", 11, "resident", say=said.append)
    learned, second = bench.draw(engine, "sdxl", 11)
    engine.unload()
    return {
        "limit_gib": OOM_GIB,
        "seconds_with_the_failures": seconds,
        "steps_down": picture.facts.get("steps_down", []),
        "rung": picture.facts["rung"],
        "said": said,
        "next_picture": {"rung": second.facts["rung"], "why": second.facts["rung_why"], "seconds": learned},
        "equal_on_the_same_rung": picture.image.tobytes() == second.image.tobytes(),
    }


def seeds(bench: Bench) -> dict[str, Any]:
    """The same seed twice in one process, and after the model was loaded again."""
    rows = {}
    for name in ("sd15", "sdxl"):
        engine, model, params = bench.engine(), bench.model(name), bench.params(name, seed=5)
        engine.load(model)
        first = engine.generate(params, quiet).image.tobytes()
        engine.generate(replace(params, seed=6), quiet)
        again = engine.generate(params, quiet).image.tobytes()
        engine.unload()
        engine.load(model)
        reloaded = engine.generate(params, quiet).image.tobytes()
        engine.unload()
        rows[name] = {"twice_equal": first == again, "after_loading_again_equal": first == reloaded}
    return rows


def cancel(bench: Bench) -> dict[str, Any]:
    """From the wish to the engine being free again, at five moments of a picture."""
    rows = {}
    for name in ("sd15", "sdxl"):
        engine, model, params = bench.engine(), bench.model(name), bench.params(name)
        engine.load(model)
        usual, _ = timed(engine.generate, params, quiet)
        waits = []
        for share in (0.1, 0.25, 0.4, 0.6, 0.75):
            wished = threading.Event()
            moment: list[float] = []

            def wish(wished: threading.Event = wished, moment: list[float] = moment) -> None:
                moment.append(time.perf_counter())
                wished.set()

            def on_step(step: int, preview: Any, wished: threading.Event = wished) -> None:
                if wished.is_set():
                    raise Stopped("cancel")

            timer = threading.Timer(usual * share, wish)
            timer.start()
            try:
                engine.generate(params, on_step)
            except Stopped:
                waits.append(time.perf_counter() - moment[0])
            timer.cancel()
            timer.join()
        engine.unload()
        rows[name] = {
            "picture_seconds": usual,
            "cancelled": len(waits),
            "seconds_to_stop": {"median": round(statistics.median(waits), 3), "most": round(max(waits), 3)}
            if waits
            else None,
        }
    return rows


def switch(bench: Bench) -> dict[str, Any]:
    """From one model to the other and back: both in memory, and with room for one only."""
    rows: dict[str, Any] = {}
    for words, limit in (("room_for_both", 0.0), ("room_for_one", 9.2)):
        engine = bench.engine(0 if bench.tiny else limit)
        pairs = []
        for name in ("sd15", "sdxl") * 2:
            model = bench.model(name)
            choice = engine.plan(model, bench.params(name), [])
            began = engine.loaded
            seconds, _ = timed(engine.load, model, choice)
            bench.draw(engine, name, steps=2)
            pairs.append({"from": began, "to": name, "seconds": seconds, "rung": choice.rung})
        rows[words] = pairs
        engine.unload()
    return rows


def transformer(bench: Bench) -> dict[str, Any]:
    """A large diffusion transformer with its T5, in bf16: resident, and on a card of 24 and of 12 GiB."""
    name, rows = bench.dit, {}
    model = bench.model(name)
    if not model.ready:
        return {"model": name, "problem": model.problem}
    for size in (0, 24, 12):
        engine = bench.engine(0 if bench.tiny else size)
        first, _ = bench.draw(engine, name)
        seconds, picture = bench.draw(engine, name, 2)
        rows[f"{size} GiB" if size else "all of the memory"] = {
            "rung": picture.facts["rung"],
            "why": picture.facts["rung_why"],
            "dtype": picture.facts["dtype"],
            "seconds_a_picture": seconds,
            "first_with_load_seconds": first,
            "peak_gib": gib(picture.facts.get("peak_bytes", 0)),
        }
        print(name, size, rows, flush=True)
        engine.unload()
    side, steps, _ = WORK[name]
    return {"model": name, "size": side, "steps": steps, "made_in_seconds": bench.made[name], "runs": rows}


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "sd15": lambda bench: by_rung(bench, "sd15"),
    "sdxl": lambda bench: by_rung(bench, "sdxl"),
    "cards": small_cards,
    "oom": out_of_memory,
    "seeds": seeds,
    "cancel": cancel,
    "switch": switch,
    "dit": transformer,
}


def gib(count: int) -> float:
    return round(count / GIB, 2)


def about(bench: Bench) -> dict[str, Any]:
    driver = ""
    if bench.device.type == "cuda":
        import pynvml

        pynvml.nvmlInit()
        driver = f", driver {pynvml.nvmlSystemGetDriverVersion()}"
    return {
        "date": utc_now()[:10],
        "device": f"{bench.device.words}{driver}, {torch.get_num_threads()} threads, {platform.machine()}",
        "versions": {each.__name__: each.__version__ for each in (torch, diffusers, transformers)},
        "command": " ".join(["python", "scripts/bench_gpu.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS], default=[*SECTIONS])
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: to try the script")
    parser.add_argument("--dit", choices=[*bench_models.MODELS], default="flux")
    parser.add_argument("--folder", type=Path, help="where the models are made: tens of GB; a RAM disk is fastest")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    shared = Path("/dev/shm")
    folder = options.folder or (shared if shared.is_dir() and not options.tiny else Path(tempfile.gettempdir()))
    place = Path(tempfile.mkdtemp(prefix="bench-gpu-", dir=folder))
    go_offline(place)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    failed = False
    try:
        bench = Bench(options, place)
        for name in options.only:
            began = time.monotonic()
            try:
                found = SECTIONS[name](bench)
            except Exception as error:  # the next section may still be measured
                traceback.print_exc()
                found, failed = {"failed": f"{type(error).__name__}: {error}"}, True
            results[name] = about(bench) | {"section_seconds": round(time.monotonic() - began, 1), "found": found}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=2) + "\n")
            print(name, json.dumps(results[name]), flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
