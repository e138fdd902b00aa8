"""Stable Diffusion XL."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image as PIL

from diffusion_local.engine import unet
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts
from diffusion_local.engine.transformer import told_of_steps
from diffusion_local.options.table import Params


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
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
    return unet.upcast_vae(pipe)


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    device, skip = pipe._execution_device, max(0, clip_skip - 2)  # SDXL was trained with the penultimate layer
    text, against = unet.unweighted_short_texts(pipe, prompt, negative)
    if text is not None:
        # An empty negative must be None: SDXL was trained with zeros, not with the embedding of an empty text.
        positive, unwanted, pooled, unwanted_pooled = pipe.encode_prompt(
            text, None, device, 1, against is not None, against or None, clip_skip=skip or None
        )
    else:
        first, second = (unet.Encoder(pipe, number, 1 + skip, False, device) for number in ("", "_2"))

        def read(words: str) -> torch.Tensor:
            return torch.cat([first(words), second(words)], dim=-1)

        positive, pooled, unwanted, unwanted_pooled = read(prompt), second.pooled(prompt), None, None
        if negative is not None:
            if negative:
                positive, unwanted = unet.same_length(positive, read(negative), read(""))
                unwanted_pooled = second.pooled(negative)
            else:
                unwanted, unwanted_pooled = torch.zeros_like(positive), torch.zeros_like(pooled)
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": unwanted,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": unwanted_pooled,
    }


def inpainting(pipe: Any) -> Any:
    return diffusers.StableDiffusionXLInpaintPipeline(**pipe.components, add_watermarker=False)


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    """InstructPix2Pix and CosXL Edit: the picture, at the size of the result, is an additional input of the UNet."""
    parts = {name: part for name, part in pipe.components.items() if name not in ("image_encoder", "feature_extractor")}
    cosxl = type(pipe.scheduler).__name__.startswith("EDM")
    edits = diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False, is_cosxl_edit=cosxl)
    edits.set_progress_bar_config(disable=True)
    return told_of_steps(edits, partial(edits, **unet.instructed(params, pictures)))


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
    refer=refer,
)
