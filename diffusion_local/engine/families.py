"""What differs from one family of models to the next: how it is loaded and how it reads a prompt.

Plain functions, a few a family; a new family copies them before anything is shared.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import flow_families, pixart, prompts
from diffusion_local.engine.family import Conditioning, Family, Parts


def load_sd(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(
        folder,
        **parts,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
        image_encoder=None,
    )


def embed_sd(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    device = pipe._execution_device
    text, against = plain_and_short(pipe, prompt, negative)
    if text is not None and clip_skip < 2:  # its own way of skipping needs transformers 4
        positive, unwanted = pipe.encode_prompt(text, device, 1, against is not None, against or None)
        return {"prompt_embeds": positive, "negative_prompt_embeds": unwanted}
    read = prompts.Encoder(pipe, "", max(0, clip_skip - 1), True, device)
    if negative is None:
        return {"prompt_embeds": read(prompt), "negative_prompt_embeds": None}
    positive, unwanted = prompts.same_length(read(prompt), read(negative), read(""))
    return {"prompt_embeds": positive, "negative_prompt_embeds": unwanted}


def plain_and_short(pipe: Any, prompt: str, negative: str | None) -> tuple[str | None, str | None]:
    """Both texts without marks if neither has weights and both fit into the encoder, else None for the prompt."""
    texts = [prompts.plain(each) for each in (prompt, negative) if each is not None]
    if any(text is None or not prompts.fits(pipe.tokenizer, text) for text in texts):
        return None, None
    return texts[0], texts[1] if negative is not None else None


def guided_unet(pipe: Any, guidance: float) -> bool:
    """Distilled models (LCM) have guidance as an input instead."""
    return guidance > 1 and pipe.unet.config.time_cond_proj_dim is None


def shape_unet(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.vae.config.latent_channels, height // scale, width // scale)


def load_sdxl(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder,
        **parts,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        add_watermarker=False,
        feature_extractor=None,
        image_encoder=None,
    )
    if pipe.vae.config.force_upcast:  # its VAE overflows in fp16
        pipe.vae.to(dtype=torch.float32)
    return pipe


def embed_sdxl(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    device, skip = pipe._execution_device, max(0, clip_skip - 2)  # trained with the last layer but one
    text, against = plain_and_short(pipe, prompt, negative)
    if text is not None:
        # An empty negative must be None: SDXL was trained with zeros, not with the embedding of an empty text.
        positive, unwanted, pooled, unwanted_pooled = pipe.encode_prompt(
            text, None, device, 1, against is not None, against or None, clip_skip=skip or None
        )
    else:
        first, second = (prompts.Encoder(pipe, number, 1 + skip, False, device) for number in ("", "_2"))

        def read(words: str) -> torch.Tensor:
            return torch.cat([first(words), second(words)], dim=-1)

        positive, pooled, unwanted, unwanted_pooled = read(prompt), second.pooled(prompt), None, None
        if negative is not None:
            if negative:
                positive, unwanted = prompts.same_length(positive, read(negative), read(""))
                unwanted_pooled = second.pooled(negative)
            else:
                unwanted, unwanted_pooled = torch.zeros_like(positive), torch.zeros_like(pooled)
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": unwanted,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": unwanted_pooled,
    }


FAMILIES = {
    "sd": Family(
        load_sd,
        embed_sd,
        guided_unet,
        shape_unet,
        scales_start=True,
        inpainting=lambda pipe: diffusers.StableDiffusionInpaintPipeline(
            **pipe.components, requires_safety_checker=False
        ),
    ),
    "sdxl": Family(
        load_sdxl,
        embed_sdxl,
        guided_unet,
        shape_unet,
        scales_start=True,
        inpainting=lambda pipe: diffusers.StableDiffusionXLInpaintPipeline(**pipe.components, add_watermarker=False),
    ),
    "pixart": pixart.FAMILY,
    **flow_families.FAMILIES,
}
