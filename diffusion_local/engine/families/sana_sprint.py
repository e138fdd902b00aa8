"""Sana Sprint. Guidance is an input of the model."""

from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.families.sana import instruction_of
from diffusion_local.engine.family import Change, Conditioning, EngineFamily
from diffusion_local.options.table import Params


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, mask = pipe.encode_prompt(
        prompt, device=pipe._execution_device, complex_human_instruction=instruction_of(pipe)
    )
    return {"prompt_embeds": positive, "prompt_attention_mask": mask}


def call(params: Params) -> dict[str, Any]:
    """The model has its own intermediate timestep for two steps; any other number of steps is spaced evenly."""
    return transformer.unbinned(params) | ({} if params.steps == 2 else {"intermediate_timesteps": None})


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    scaled: torch.Tensor = latents * pipe.scheduler.config.sigma_data
    return scaled


def unpack(pipe: Any, width: int, height: int) -> Change:
    sigma = pipe.scheduler.config.sigma_data
    return lambda latents: latents / sigma


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.SanaSprintPipeline),
    embed,
    transformer.never_uses_guidance,
    transformer.latent_shape,
    call=call,
    pack=pack,
    unpack=unpack,
    latents_dtype=torch.float32,  # in this pipeline, regardless of the model's dtype
    together=True,
)
