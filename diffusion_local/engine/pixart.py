"""PixArt-alpha and PixArt-Sigma: a transformer that is sampled as SD is.

Their pipelines have the older kind of callback only, which is not told of a sampler's half steps and gives nothing
back; so the scheduler's step is what tells.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.domain import Params
from diffusion_local.engine import flow_families
from diffusion_local.engine.family import Conditioning, Family, Parts, sized_and_guided


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    alpha = flow_families.index_of(folder)["_class_name"] == "PixArtAlphaPipeline"
    return flow_families.loads(diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline)(
        folder, dtype, parts
    )


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return flow_families.masked_embeds(pipe, prompt, negative)


def call(params: Params) -> dict[str, Any]:
    """Without the binning that would make another size."""
    return sized_and_guided(params) | {"use_resolution_binning": False}


def run(pipe: Any) -> Callable[..., Any]:
    """The pipeline with a ``callback_on_step_end`` as the others have it."""

    def painted(callback_on_step_end: Any, **arguments: Any) -> Any:
        scheduler, done = pipe.scheduler, 0
        step, set_timesteps = scheduler.step, scheduler.set_timesteps

        @wraps(set_timesteps)  # pipelines read the signature
        def counted(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            pipe.num_timesteps = len(scheduler.timesteps)

        @wraps(step)
        def told(output: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal done
            latents, *rest = step(output, timestep, *args, **kwargs)
            changed = callback_on_step_end(pipe, done, timestep, {"latents": latents})
            done += 1
            return (changed.get("latents", latents), *rest)

        scheduler.step, scheduler.set_timesteps = told, counted
        return pipe(**arguments)

    return painted


FAMILY = Family(load, embed, flow_families.guided, flow_families.shape_of_whole, call=call, run=run, scales_start=True)
