"""Ovis-Image."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against, _, _ = pipe.encode_prompt(prompt, negative, negative is not None, device=pipe._execution_device)
    return {
        "prompt_embeds": positive,
        "negative_prompt": None,  # the default "" is rejected beside embeddings
        "negative_prompt_embeds": against,
    }


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.OvisImagePipeline),
    embed,
    transformer.uses_guidance,
    **transformer.PACKED,
    together=True,
)
