"""Chroma."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, _, mask, against, _, mask_against = pipe.encode_prompt(
        prompt, negative, device=pipe._execution_device, do_classifier_free_guidance=negative is not None
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.ChromaPipeline),
    embed,
    transformer.uses_guidance,
    **transformer.PACKED,
    together=True,
)
