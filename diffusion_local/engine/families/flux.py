"""FLUX.1 dev and schnell. Guidance is an input of the model, or distilled into it."""

from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Change, Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    longest = 512 if pipe.transformer.config.guidance_embeds else 256  # schnell was trained with fewer
    positive, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device, max_sequence_length=longest)
    return {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}


def shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels // 4, height // scale, width // scale)


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def unpack(pipe: Any, width: int, height: int) -> Change:
    spread, scale = type(pipe)._unpack_latents, pipe.vae_scale_factor
    return lambda latents: spread(latents, height, width, scale)


FAMILY = EngineFamily(
    transformer.loads(diffusers.FluxPipeline),
    embed,
    transformer.never_guided,
    shape,
    start=pack,
    pack=pack,
    unpack=unpack,
    end=unpack,
)
