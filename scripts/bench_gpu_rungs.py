"""Measurements of rungs and small cards: what is chosen, what it costs, and what happens without enough memory."""

from dataclasses import replace
from typing import Any

from bench_gpu_setup import FEW_STEPS, Bench, finished, gib, timed
from PIL import ImageChops

from diffusion_local.engine.memory import estimate
from diffusion_local.engine.precision import read


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
