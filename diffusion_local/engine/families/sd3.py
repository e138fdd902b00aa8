"""Stable Diffusion 3 and 3.5."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against, pooled, pooled_against = pipe.encode_prompt(
        prompt,
        None,
        None,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
        clip_skip=clip_skip - 2 if clip_skip > 2 else None,
    )
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": against,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled_against,
    }


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.StableDiffusion3Pipeline),
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    together=True,
)
