"""AuraFlow."""

from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer, unet
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    return unet.upcast_vae(transformer.pipeline_loader(diffusers.AuraFlowPipeline)(folder, dtype, parts))


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, mask, against, mask_against = pipe.encode_prompt(
        prompt, negative, negative is not None, device=pipe._execution_device
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    together=True,
)
