"""Measurements of transformers on a GPU: SD 3.5's on the rungs and with graphs, FLUX's at each setting of ``speed``."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import bench_models
import torch
from bench_gpu_setup import FEW_STEPS, TURNS, Bench, faster, gib, quiet, synchronize, timed

from diffusion_local.engine import autoencoder, painting, placement
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.fused.operations import TorchOperations, available
from diffusion_local.engine.graphs import Graphs
from diffusion_local.engine.memory import GIB, Weights, estimate
from diffusion_local.gallery import image_formats

DIT_SIDE = 1024
#: How long to wait for compiled blocks.
PREPARING_SECONDS = 90


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
        image_formats.encode(picture, {})

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
                saved.append(savers.submit(lambda: image_formats.encode(later()[0], {})))
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
