"""Hunyuan-DiT: a transformer that is sampled like Stable Diffusion."""

from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer, unet
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts

#: Maximum prompt length of each text encoder, in tokens.
TOKENS_OF_ENCODER = {0: 77, 1: 256}


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return unet.upcast_vae(transformer.pipeline_loader(diffusers.HunyuanDiTPipeline)(folder, dtype, parts | unused))


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    conditioning: Conditioning = {}
    for number, end in ((0, ""), (1, "_2")):
        positive, against, mask, mask_against = pipe.encode_prompt(
            prompt,
            pipe._execution_device,
            pipe.transformer.dtype,
            do_classifier_free_guidance=negative is not None,
            negative_prompt=negative or None,
            max_sequence_length=TOKENS_OF_ENCODER[number],
            text_encoder_index=number,
        )
        conditioning |= {
            f"prompt_embeds{end}": positive,
            f"negative_prompt_embeds{end}": against,
            f"prompt_attention_mask{end}": mask,
            f"negative_prompt_attention_mask{end}": mask_against,
        }
    return conditioning


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    call=transformer.unbinned,
    scales_start=True,
    together=True,
)
