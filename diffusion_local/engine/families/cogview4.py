"""CogView4."""

from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against = pipe.encode_prompt(prompt, negative, negative is not None, device=pipe._execution_device)
    return {"prompt_embeds": positive, "negative_prompt_embeds": against}


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.CogView4Pipeline),
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    latents_dtype=torch.float32,  # in this pipeline, regardless of the model's dtype
    together=True,
)
