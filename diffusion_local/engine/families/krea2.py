"""Krea 2, base and distilled."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def uses_guidance(pipe: Any, guidance: float) -> bool:
    """This pipeline adds guidance to the positive prediction, so 0 means off."""
    return guidance > 0


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, mask = pipe.encode_prompt(prompt, pipe._execution_device)
    against, mask_against = (None, None) if negative is None else pipe.encode_prompt(negative, pipe._execution_device)
    return {
        "prompt_embeds": positive,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": against,
        "negative_prompt_embeds_mask": mask_against,
    }


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.Krea2Pipeline),
    embed,
    uses_guidance,
    **transformer.PACKED,
    together=True,
)
