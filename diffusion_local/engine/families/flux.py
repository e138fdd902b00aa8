"""FLUX.1 dev and schnell. Guidance is an input of the model, or distilled into it."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    longest = 512 if pipe.transformer.config.guidance_embeds else 256  # schnell was trained with fewer
    positive, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device, max_sequence_length=longest)
    return {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}


FAMILY = EngineFamily(
    transformer.loads(diffusers.FluxPipeline),
    embed,
    transformer.never_guided,
    **transformer.PACKED,
    together=True,
)
