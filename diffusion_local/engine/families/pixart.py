"""PixArt-alpha and PixArt-Sigma: a transformer that is sampled like Stable Diffusion.

Their pipelines only have the older step callback, which misses the half steps of second-order samplers and cannot
change tensors, so steps are observed through the scheduler's ``step``.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    alpha = transformer.index_of(folder)["_class_name"] == "PixArtAlphaPipeline"
    return transformer.pipeline_loader(diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline)(
        folder, dtype, parts
    )


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return transformer.masked_embeds(pipe, prompt, negative)


def run(pipe: Any) -> Callable[..., Any]:
    """The pipeline with a ``callback_on_step_end`` like that of other pipelines."""

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


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    call=transformer.unbinned,
    run=run,
    scales_start=True,
    together=True,
)
