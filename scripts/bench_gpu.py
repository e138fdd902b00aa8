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
import json
import logging
import platform
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import bench_models
import diffusers
import torch
import transformers
from PIL import ImageChops
from safetensors.torch import save_file

from diffusion_local.compose import open_files
from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now
from diffusion_local.engine import Part, Pass, Picture, autoencoder, painting, placement
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.fused.operations import TorchOperations, available
from diffusion_local.engine.graphs import Graphs
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import GIB, RungChoice, Weights, estimate
from diffusion_local.engine.precision import read
from diffusion_local.errors import Stopped
from diffusion_local.gallery import formats
from diffusion_local.models.catalog import Catalog
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.options.table import Params
from diffusion_local.options.types import Lora
from diffusion_local.queue.history import FitStore
from diffusion_local.settings import Settings, go_offline, keep_kernels
from diffusion_local.worker.ladder import Ladder

RESULT = Path(__file__).parent / "results" / "gpu-engine.json"
STEPS, FEW_STEPS = 20, 4
SIDES = {"sd15": 512, "sdxl": 1024}
DIT_SIDE = 1024
#: Number of alternations between pictures with and without graphs, to average over other load on the host.
TURNS = 4
#: How long to wait for compiled blocks.
PREPARING_SECONDS = 90


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


def resident(bench: Bench, name: str) -> dict[str, Any]:
    """With everything on the device: load, two pictures after a warm-up, and the first seed again."""
    load = bench.load(name)
    first, begun = timed(finished, bench.engine, bench.params(name))
    runs = [timed(finished, bench.engine, bench.params(name, seed)) for seed in (2, 3)]
    _, again = timed(finished, bench.engine, bench.params(name))
    facts = again.facts
    params = bench.params(name)
    need = estimate(read(bench.catalog.get(name).path), 2, params.width, params.height)
    return {
        "size": params.width,
        "steps": params.steps,
        "dtype": facts["dtype"],
        "load_seconds": load,
        "first_seconds": first,
        "seconds_a_picture": [run[0] for run in runs],
        "denoise_seconds": [run[1].facts["denoise_seconds"] for run in runs],
        "peak_gib": gib(facts.get("peak_bytes", 0)),
        "estimated_gib": gib(need.bytes_at("resident")),
        "same_seed_twice_equal": begun.image.tobytes() == again.image.tobytes(),
    }


def graphs(bench: Bench, name: str) -> dict[str, Any]:
    """The same pictures alternately with kernels launched from Python and with one CUDA graph per step."""
    loaded = bench.engine._loaded
    assert loaded is not None
    ways = {"eager": Graphs(), "graph": loaded.graphs}
    loaded.graphs.forget()
    rows: dict[str, Any] = {way: {"seconds": [], "denoise_seconds": []} for way in ways}
    pictures: dict[str, list[bytes]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):
        for way, held in ways.items():
            loaded.graphs = held
            bench.engine._gauge.start()
            seconds, picture = timed(finished, bench.engine, bench.params(name, 50 + turn))
            pictures[way].append(picture.image.tobytes())
            if turn == 0:  # the graph is recorded in this one
                rows[way] |= {"first_seconds": seconds, "peak_gib": gib(picture.facts.get("peak_bytes", 0))}
                continue
            rows[way]["seconds"].append(seconds)
            rows[way]["denoise_seconds"].append(picture.facts["denoise_seconds"])
    params = bench.params(name)
    need = estimate(read(bench.catalog.get(name).path), 2, params.width, params.height)
    return rows | {
        "used": picture.facts.get("cuda_graph", False),
        "times_as_fast": faster(rows, "seconds"),
        "times_as_fast_denoising": faster(rows, "denoise_seconds"),
        "graph_holds_gib": gib(loaded.graphs.bytes),
        "graph_estimated_gib": gib(need.graph),
        "reserved_peak_gib": reserved_peaks(lambda way: one_more(bench, name, ways[way])),
        "equal": pictures["eager"] == pictures["graph"],
    }


def one_more(bench: Bench, name: str, held: Graphs) -> None:
    loaded = bench.engine._loaded
    assert loaded is not None
    before, loaded.graphs = loaded.graphs, held
    before.forget()
    finished(bench.engine, bench.params(name, 99))
    loaded.graphs = before


def reserved_peaks(draw: Callable[[str], None]) -> dict[str, float]:
    """Device memory reserved by torch, including gaps, with and without graphs."""
    if not torch.cuda.is_available():
        return {}
    peaks = {}
    for way in ("eager", "graph"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        draw(way)
        peaks[way] = gib(torch.cuda.max_memory_reserved())
    return peaks


def faster(rows: dict[str, Any], what: str) -> float:
    return round(median(rows["eager"][what]) / max(median(rows["graph"][what]), 0.001), 2)


def fused(bench: Bench, name: str) -> dict[str, Any]:
    """The same pictures alternately on the exact path and with fused forms: seconds, memory, and differences of latents
    and pixels.
    """
    fast = DiffusersEngine(bench.device, speed="fast")
    if bench.tiny:
        fast._cache._operations = TorchOperations()
    fast.load(bench.catalog.get(name), RungChoice("resident"))
    engines = {"exact": bench.engine, "fast": fast}
    rows: dict[str, Any] = {way: {"seconds": [], "denoise_seconds": []} for way in engines}
    apart: list[float] = []
    latents: dict[str, torch.Tensor] = {}
    decode = painting.decode
    try:
        for turn in range(TURNS + 1):
            made = {}
            for way, engine in engines.items():

                def kept(held: Any, given: torch.Tensor, *rest: Any, way: str = way) -> Any:
                    latents[way] = given.float().cpu()
                    return decode(held, given, *rest)

                painting.decode = kept
                engine._gauge.start()
                seconds, made[way] = timed(finished, engine, bench.params(name, 60 + turn))
                if turn == 0:  # kernels are compiled and graphs recorded in this one
                    rows[way] |= {"first_seconds": seconds, "peak_gib": gib(made[way].facts.get("peak_bytes", 0))}
                    continue
                rows[way]["seconds"].append(seconds)
                rows[way]["denoise_seconds"].append(made[way].facts["denoise_seconds"])
            apart.append(float((latents["fast"] - latents["exact"]).norm() / latents["exact"].norm()))
            pixels = ImageChops.difference(made["exact"].image, made["fast"].image)
    finally:
        painting.decode = decode
        fast.unload()
    return rows | {
        "made_by": made["fast"].facts.get("fused"),
        "times_as_fast": faster({"eager": rows["exact"], "graph": rows["fast"]}, "seconds"),
        "relative_l2_of_latents": [round(each, 5) for each in apart],
        "largest_pixel_difference": max(high for _, high in pixels.getextrema()),
    }


def finished(engine: DiffusersEngine, params: Params) -> Picture:
    picture = engine.generate(params, quiet)
    picture.image  # noqa: B018 - waits for it
    return picture


def loras(bench: Bench, name: str) -> dict[str, Any]:
    """Pictures with a LoRA, then without, on rungs that move the weights and on one that does not."""
    bench.load(name)
    loaded = bench.engine._loaded
    assert loaded is not None
    make_lora(bench.loras / "ink.safetensors", loaded.pipe.unet)
    bare, rows = bench.params(name, 70, FEW_STEPS), {}
    inked = replace(bare, loras=(Lora("ink", 1.0),))
    for rung in ("resident", "encoder_offload", "block_streaming", "model_offload", "group_offload"):
        if rung not in bench.engine.ladder:
            continue
        bench.load(name, rung)
        timed(finished, bench.engine, bare)
        made = [timed(finished, bench.engine, each) for each in (bare, inked, inked, bare)]
        before, first, again, after = (picture.image.tobytes() for _, picture in made)
        rows[rung] = {
            "seconds_without": made[0][0],
            "seconds_putting_it_in": made[1][0],
            "seconds_with": made[2][0],
            "changes_the_picture": before != first,
            "same_seed_equal": first == again,
            "leaves_no_trace": before == after,
            "cuda_graph": made[2][1].facts.get("cuda_graph", False),
        }
    return {"steps": FEW_STEPS, "rungs": rows}


def make_lora(path: Path, unet: Any) -> None:
    """A rank-16 LoRA on the attention of a UNet, with peft's tensor names."""
    generator, weights = torch.Generator().manual_seed(1), {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v")):
            rows, columns = module.weight.shape
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(16, columns, generator=generator) * 0.05
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(rows, 16, generator=generator) * 0.05
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def cancel(bench: Bench, name: str) -> dict[str, Any]:
    """Time from a cancel request until the engine is free, at three moments of a picture."""
    usual, _ = timed(finished, bench.engine, bench.params(name))
    waits = []
    for share in (0.2, 0.45, 0.7):
        wished, at = threading.Event(), [0.0]

        def wish(wished: threading.Event = wished, at: list[float] = at) -> None:
            at[0] = time.perf_counter()
            wished.set()

        def on_step(step: int, preview: Any, wished: threading.Event = wished) -> None:
            if wished.is_set():
                raise Stopped("cancel")

        timer = threading.Timer(usual * share, wish)
        timer.start()
        try:
            bench.engine.generate(bench.params(name), on_step)
        except Stopped:
            synchronize()
            waits.append(round(time.perf_counter() - at[0], 3))
        timer.join()
    return {"picture_seconds": usual, "seconds_to_stop": waits}


def on_a_card(bench: Bench, name: str, limit_gib: float, wanted: str = "auto") -> dict[str, Any]:
    """The rung chosen when memory is limited to a number of GiB, and its cost."""
    bench.cap(limit_gib)
    first, begun = bench.draw(name, 21, wanted)
    seconds, picture = bench.draw(name, 22, wanted)
    bench.cap(0)
    return {
        "limit_gib": limit_gib,
        "rung": picture.facts["rung"],
        "speed": picture.facts["speed"],
        "cuda_graph": picture.facts.get("cuda_graph", False),
        "blocks_kept": picture.facts.get("blocks_kept", ""),
        "why": begun.facts["rung_why"],
        "steps_down": begun.facts.get("steps_down", []),
        "first_seconds_with_the_move": first,
        "seconds_a_picture": seconds,
        "peak_gib": gib(picture.facts.get("peak_bytes", 0)),
    }


def out_of_memory(bench: Bench, name: str, limit_gib: float) -> dict[str, Any]:
    """The top rung is forced without enough memory: the engine steps down and finishes; the next picture starts on
    that rung.
    """
    said: list[str] = []
    bench.cap(limit_gib)
    seconds, picture = bench.draw(name, 31, "resident", said.append)
    second_seconds, second = bench.draw(name, 31)
    bench.cap(0)
    return {
        "limit_gib": limit_gib,
        "steps_down": picture.facts.get("steps_down", []),
        "said": said,
        "rung": picture.facts["rung"],
        "seconds_with_the_failures": seconds,
        "next": {"rung": second.facts["rung"], "why": second.facts["rung_why"], "seconds": second_seconds},
        "same_seed_equal": picture.image.tobytes() == second.image.tobytes(),
        "largest_difference": max(high for _, high in ImageChops.difference(picture.image, second.image).getextrema()),
    }


def on_a_rung(bench: Bench, name: str, rung: str) -> dict[str, Any]:
    """Seconds per step and peak memory on a rung, with all of the GPU's memory."""
    move = bench.load(name, rung)
    params = bench.params(name, steps=FEW_STEPS)
    need = estimate(read(bench.catalog.get(name).path), 2, params.width, params.height)
    timed(finished, bench.engine, replace(params, steps=1))
    seconds, picture = timed(finished, bench.engine, replace(params, seed=2))
    return {
        "steps": FEW_STEPS,
        "load_or_move_seconds": move,
        "seconds": seconds,
        "seconds_a_step": round(picture.facts["denoise_seconds"] / FEW_STEPS, 3),
        "peak_gib": gib(picture.facts.get("peak_bytes", 0)),
        "estimated_gib": gib(need.bytes_at(rung)) if rung in bench.engine.ladder else None,
    }


def switches(bench: Bench, limit_gib: float) -> dict[str, Any]:
    """Switching between two models, with memory for both or only for one."""
    bench.engine.unload()
    rows = []
    for limit in (0.0, limit_gib):
        bench.cap(limit)
        for name in ("sdxl", "sd15") * 2:
            before, model = bench.engine.loaded, bench.catalog.get(name)
            choice = bench.engine.plan(model, bench.params(name), [])
            seconds, _ = timed(bench.engine.load, model, choice)
            rows.append({"limit_gib": limit, "from": before, "to": name, "seconds": seconds, "rung": choice.rung})
    bench.engine.unload()
    bench.cap(0)
    return {"switches": rows}


def transformer(bench: Bench) -> dict[str, Any]:
    """Stable Diffusion 3.5 medium's denoiser and VAE in bf16, with random text embeddings, on the engine's rungs."""
    bench.engine.unload()
    pipe = bench_models.sd3(bench.device.torch, bench.tiny)
    pipe.set_progress_bar_config(disable=True)
    config, gauge, rows = pipe.transformer.config, bench.engine._gauge, {}
    embeds = [
        torch.randn(1, *shape, device=bench.device.torch, dtype=torch.bfloat16)
        for shape in ((333, config.joint_attention_dim), (config.pooled_projection_dim,)) * 2
    ]
    names = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")
    side = 64 if bench.tiny else DIT_SIDE
    need = estimate(Weights({part: held_by(getattr(pipe, part)) for part in ("transformer", "vae")}), 2, side, side)

    def draw() -> Any:
        return pipe(
            **dict(zip(names, embeds, strict=True)),
            width=side,
            height=side,
            num_inference_steps=FEW_STEPS,
            guidance_scale=4.5,
            generator=torch.Generator().manual_seed(1),
        ).images[0]

    recorder = bench.engine._cache._recorder
    recorded = Graphs(recorder() if recorder else None)
    found: dict[str, Any] = {}
    with torch.no_grad():
        for rung in ("resident", "model_offload", "group_offload"):
            if rung not in bench.engine.ladder:
                continue
            placement.place(pipe, rung, bench.device.torch)
            gauge.collect()
            gauge.start()
            for _ in range(2):
                seconds, picture = timed(draw)
            rows[rung] = {"seconds": seconds, "peak_gib": gib(gauge.peak()), "estimated_gib": gib(need.bytes_at(rung))}
            if rung == "resident":
                found = turns_of(pipe.transformer, draw, recorded, need.graph, gauge.free())
        recorded.forget()
    parameters = sum(each.numel() for each in pipe.transformer.parameters())
    model = {"model": "SD 3.5 medium", "parameters": parameters, "dtype": "bfloat16", "steps": FEW_STEPS}
    return model | {"size": picture.width, "rungs": rows, "graphs": found}


def flux(bench: Bench) -> dict[str, Any]:
    """FLUX.1-schnell's transformer and VAE in bf16 with random text embeddings, 4 steps, saving included.

    Four variants: plain diffusers, and the engine's parts at each setting of ``speed`` (CUDA graphs, blocks compiled in
    the background, fused decoder), which save on a thread as the worker does.
    """
    bench.engine.unload()
    torch.cuda.empty_cache() if torch.cuda.is_available() else None
    pipe = bench_models.flux(bench.device.torch, bench.tiny)
    pipe.set_progress_bar_config(disable=True)
    config, side = pipe.transformer.config, 64 if bench.tiny else DIT_SIDE
    embeds = {
        "prompt_embeds": torch.randn(1, 256, config.joint_attention_dim),
        "pooled_prompt_embeds": torch.randn(1, config.pooled_projection_dim),
    }
    embeds = {name: each.to(bench.device.torch, torch.bfloat16) for name, each in embeds.items()}

    def latents(seed: int) -> torch.Tensor:
        made: torch.Tensor = pipe(
            **embeds, width=side, height=side, num_inference_steps=FEW_STEPS, guidance_scale=0.0, output_type="latent",
            generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
        unpacked: torch.Tensor = pipe._unpack_latents(made, side, side, pipe.vae_scale_factor)
        return unpacked

    rows: dict[str, Any] = {}
    exact = latents(1).float()

    def bare(seed: int) -> None:
        picture = autoencoder.decode(pipe.vae, latents(seed), quiet)[0]
        formats.encode(picture, {})

    bare(1)
    rows["bare"] = paced(bare)
    room = bench.engine._gauge.free()
    recorder = bench.engine._cache._recorder
    for speed in ("exact", "fast", "fastest"):
        recorded = Graphs(recorder() if recorder else None)
        operations: Any = None
        if speed != "exact":
            device = torch.device(bench.device.torch)
            operations = TorchOperations(speed == "fastest") if bench.tiny else available(device, speed == "fastest")[0]
        forms = Forms(operations, recorded.forget, True)
        with torch.no_grad(), ThreadPoolExecutor(2) as savers:
            saved: list[Any] = []

            held = SimpleNamespace(pipe=pipe, forms=forms, rung="resident", dtype=torch.bfloat16, checked=True)

            def draw(seed: int, held: Any = held, recorded: Graphs = recorded, saved: list[Any] = saved) -> None:
                form = held.forms.denoiser(pipe, room // 2)
                with recorded.around(pipe.transformer, room // 2, GIB, form):
                    made = latents(seed)
                later = painting.decode(held, made, quiet)
                saved.append(savers.submit(lambda: formats.encode(later()[0], {})))
                if len(saved) > 1:
                    saved[-2].result()

            began = time.perf_counter()
            first = timed(draw, 1)[0]
            ready, pictures = None, 1
            while operations is not None and time.perf_counter() - began < PREPARING_SECONDS:
                draw(1)
                pictures += 1
                if forms._denoiser is not None and forms._denoiser.used:
                    ready = round(time.perf_counter() - began, 1)
                    break
            for seed in (2, 3):  # the graph is recorded
                draw(seed)
            synchronize()
            bench.engine._gauge.start()
            rows[speed] = paced(draw, saved) | {
                "first_seconds": first,
                "compiled_after_seconds": ready,
                "pictures_until_then": pictures,
                "made_by": forms.facts(),
                "cuda_graph": recorded.replayed,
                "peak_gib": gib(bench.engine._gauge.peak()),
            }
            form = forms.denoiser(pipe, room // 2)
            with recorded.around(pipe.transformer, room // 2, GIB, form):
                rows[speed]["relative_l2_of_latents"] = round(
                    float((latents(1).float() - exact).norm() / exact.norm()), 5
                )
            for each in saved:
                each.result()
        recorded.forget()
        forms.drop()
    parameters = sum(each.numel() for each in pipe.transformer.parameters())
    return {"model": "FLUX.1 schnell", "parameters": parameters, "steps": FEW_STEPS, "size": side} | rows


def paced(draw: Callable[[int], Any], saved: Sequence[Any] = (), pictures: int = 8) -> dict[str, Any]:
    """Seconds per picture for several in a row, until the last is saved."""
    synchronize()
    began = time.perf_counter()
    for seed in range(100, 100 + pictures):
        draw(seed)
    for each in saved:
        each.result()
    synchronize()
    return {"seconds_a_picture": round((time.perf_counter() - began) / pictures, 3)}


def turns_of(denoiser: Any, draw: Callable[[], Any], recorded: Graphs, expected: int, room: int) -> dict[str, Any]:
    """Alternate pictures with and without graphs."""
    rows: dict[str, Any] = {"eager": {"seconds": []}, "graph": {"seconds": []}}
    pictures = set()
    for turn in range(TURNS + 1):
        for way, held in (("eager", Graphs()), ("graph", recorded)):
            with held.around(denoiser, room, expected):
                seconds, picture = timed(draw)
            pictures.add(picture.tobytes())
            if turn:
                rows[way]["seconds"].append(seconds)
    holds = {"graph_holds_gib": gib(recorded.bytes), "graph_estimated_gib": gib(expected)}
    equal = {"used": recorded.replayed, "equal": len(pictures) == 1}
    return rows | {"times_as_fast": faster(rows, "seconds")} | holds | equal


def held_by(part: Any) -> int:
    """Number of weights in a part's file."""
    return sum(each.numel() for each in part.state_dict().values())


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
        "command": " ".join(["python", "scripts/bench_gpu.py", *without_places(sys.argv[1:])]),
    }


def without_places(words: list[str]) -> list[str]:
    """The words of a command, without paths of this machine."""
    kept, skip = [], False
    for word in words:
        if not skip and word.partition("=")[0] not in ("--out", "--folder", "--kernels"):
            kept.append(word)
        skip = word in ("--out", "--folder", "--kernels")
    return kept


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
