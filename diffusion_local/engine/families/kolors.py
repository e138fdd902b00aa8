"""Kolors."""

from typing import Any

import diffusers

from diffusion_local.engine import transformer, unet
from diffusion_local.engine.family import Conditioning, EngineFamily


def load(*arguments: Any) -> Any:
    return unet.upcast_vae(transformer.pipeline_loader(diffusers.KolorsPipeline)(*arguments))


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, unwanted, pooled, unwanted_pooled = pipe.encode_prompt(
        prompt, pipe._execution_device, 1, negative is not None, negative
    )
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": unwanted,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": unwanted_pooled,
    }


def inpainting(pipe: Any) -> Any:
    """SDXL's pipeline, which reads given embeddings of any encoder: diffusers has none for Kolors."""
    kept = ("vae", "unet", "scheduler")
    return diffusers.StableDiffusionXLInpaintPipeline(
        **{name: pipe.components[name] for name in kept},
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


FAMILY = EngineFamily(
    load,
    embed,
    unet.uses_guidance,
    unet.latent_shape,
    prompt_tensors=unet.prompt_tensors,
    scales_start=True,
    inpainting=inpainting,
    together=True,
    halves=True,
)
