"""Z-Image."""

from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def uses_guidance(pipe: Any, guidance: float) -> bool:
    """This pipeline adds guidance to the positive prediction, so 0 means off."""
    return guidance > 0


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
    )
    return {"prompt_embeds": positive, "negative_prompt_embeds": against or None}


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.ZImagePipeline),
    embed,
    uses_guidance,
    transformer.latent_shape,
    latents_dtype=torch.float32,  # in this pipeline, regardless of the model's dtype
    together=True,
)
