"""Lumina Image 2."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return transformer.masked_embeds(pipe, prompt, negative)


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.Lumina2Pipeline), embed, transformer.uses_guidance, transformer.latent_shape
)
