"""What the benchmarks of the engine on a GPU share: models, an engine, and how measurements are timed and recorded."""

import argparse
import json
import platform
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import bench_models
import diffusers
import torch
import transformers
from bench_record import command

from diffusion_local.compose import open_files
from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now
from diffusion_local.engine import Part, Pass, Picture
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import GIB, RungChoice
from diffusion_local.engine.precision import read
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.options.table import Params
from diffusion_local.queue.history import FitStore
from diffusion_local.settings import Settings
from diffusion_local.worker.ladder import Ladder

STEPS, FEW_STEPS = 20, 4
SIDES = {"sd15": 512, "sdxl": 1024}
#: Number of alternations between pictures with and without graphs, to average over other load on the host.
TURNS = 4


class Spent(Exception):
    """The time budget is used up."""


class Bench:
    """The models, a home in which the memory policy stores measurements, one engine, and the results so far."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.tiny: bool = options.tiny
        self.out: Path = options.out
        self.only = tuple(options.only or ())
        self.ends_at = time.monotonic() + options.budget
        self.device = at_slot("cpu0" if self.tiny else "gpu0")
        settings = Settings.load({}, home=str(folder / "home"))
        self.models, self.loras = settings.models, settings.loras
        self.catalog = Catalog(settings.starter, ModelDirectories.from_settings(settings))
        self.fits = FitStore(Database.open(settings.database_file))
        materials = PictureInputs(settings, open_files(settings).open_source)
        self.engine = DiffusersEngine(self.device, materials=materials, speed=options.speed)
        self.results: dict[str, Any] = about(self)

    def record(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run one measurement and write its result or failure."""
        if self.only and not name.startswith(self.only):
            return
        if time.monotonic() > self.ends_at:
            raise Spent
        began = time.monotonic()
        try:
            found = work()
        except Exception as error:  # the next one may still succeed
            traceback.print_exc()
            self.cap(0)
            found = {"failed": f"{type(error).__name__}: {error}"}
        self.results[name] = found | {"took": round(time.monotonic() - began, 1)}
        print(name, self.results[name], flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=2) + "\n")

    def make(self, name: str) -> dict[str, Any]:
        """Write a model's folder; returns the parameter counts that the memory estimate reads from it."""
        folder = self.models / name
        bench_models.make(name, folder, self.device.torch, self.tiny)
        self.engine._gauge.collect()
        return {"parameters": read(folder).parts}

    def params(self, name: str, seed: int = 1, steps: int = STEPS) -> Params:
        side = 64 if self.tiny else SIDES[name]
        wanted = {"model": name, "seed": seed, "sampler": "Euler", "width": side, "height": side, "steps": steps}
        return self.catalog.complete("a red apple", wanted | {"guidance": 7.5})

    def load(self, name: str, rung: str = "resident") -> float:
        choice = RungChoice(rung if rung in self.engine.ladder else self.engine.ladder[-1])
        return timed(self.engine.load, self.catalog.get(name), choice)[0]

    def draw(
        self, name: str, seed: int = 1, wanted: str = "auto", say: Callable[[str], None] | None = None
    ) -> tuple[float, Picture]:
        """(seconds, picture), made as a worker does: stepping down the ladder, and loading the model if necessary."""
        ladder = Ladder(self.engine, self.fits.of, self.fits.save, wanted)
        model = self.catalog.get(name)
        part = Part(self.params(name, seed), quiet)

        def make() -> Picture:
            ladder.run(model, Pass([part]), quiet, quiet, say or quiet)
            picture = part.result()
            picture.image  # noqa: B018 - waits for it
            return picture

        return timed(make)

    def cap(self, limit_gib: float) -> None:
        """Limit the allocator to the memory of a smaller card; 0: no limit."""
        self.engine._gauge.collect()
        self.engine._gauge.cap(int(limit_gib * GIB))


def quiet(*_: Any) -> None:
    """A progress callback that does nothing."""


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    synchronize()
    began = time.perf_counter()
    result = work(*arguments)
    synchronize()
    return round(time.perf_counter() - began, 3), result


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def finished(engine: DiffusersEngine, params: Params) -> Picture:
    picture = engine.generate(params, quiet)
    picture.image  # noqa: B018 - waits for it
    return picture


def faster(rows: dict[str, Any], what: str) -> float:
    return round(median(rows["eager"][what]) / max(median(rows["graph"][what]), 0.001), 2)


def gib(count: int) -> float:
    return round(count / GIB, 2)


def about(bench: Bench) -> dict[str, Any]:
    driver = ""
    if bench.device.type == "cuda":
        with suppress(ImportError):
            import pynvml

            pynvml.nvmlInit()
            driver = f", driver {pynvml.nvmlSystemGetDriverVersion()}"
    return {
        "date": utc_now()[:10],
        "device": f"{bench.device.words}{driver}, {torch.get_num_threads()} threads, {platform.machine()}",
        "versions": {each.__name__: str(each.__version__) for each in (torch, diffusers, transformers)},
        "command": command(),
    }
