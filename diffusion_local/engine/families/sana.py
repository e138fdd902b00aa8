"""Sana."""

import inspect
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return transformer.masked_embeds(pipe, prompt, negative, complex_human_instruction=instruction_of(pipe))


def instruction_of(pipe: Any) -> Any:
    """The pipeline's default instruction before the prompt."""
    return inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.SanaPipeline),
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    call=transformer.unbinned,
    latents_dtype=torch.float32,  # in this pipeline, regardless of the model's dtype
    together=True,
)
