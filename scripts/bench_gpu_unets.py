"""Measurements of UNets on a GPU: whole pictures, CUDA graphs, fused forms, LoRAs, cancelling."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_gpu_setup import FEW_STEPS, TURNS, Bench, faster, finished, gib, synchronize, timed
from PIL import ImageChops
from safetensors.torch import save_file

from diffusion_local.engine import painting
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.graphs import Graphs
from diffusion_local.engine.memory import RungChoice, estimate
from diffusion_local.engine.precision import read
from diffusion_local.errors import Stopped
from diffusion_local.options.types import Lora


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
