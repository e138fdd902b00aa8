"""Stable Diffusion 1 and 2."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image as PIL

from diffusion_local.engine import inputs, unet
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts
from diffusion_local.options.table import Params


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
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


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    device = pipe._execution_device
    text, against = unet.unweighted_short_texts(pipe, prompt, negative)
    if text is not None and clip_skip < 2:  # the pipeline's own clip_skip needs transformers 4
        positive, unwanted = pipe.encode_prompt(text, device, 1, against is not None, against or None)
        return {"prompt_embeds": positive, "negative_prompt_embeds": unwanted}
    read = unet.Encoder(pipe, "", max(0, clip_skip - 1), True, device)
    if negative is None:
        return {"prompt_embeds": read(prompt), "negative_prompt_embeds": None}
    positive, unwanted = unet.same_length(read(prompt), read(negative), read(""))
    return {"prompt_embeds": positive, "negative_prompt_embeds": unwanted}


def inpainting(pipe: Any) -> Any:
    return diffusers.StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    """InstructPix2Pix: the picture, at the size of the result, is an additional input of the UNet."""
    edits = inputs.with_same_parts(
        diffusers.StableDiffusionInstructPix2PixPipeline, pipe, requires_safety_checker=False
    )
    return unet.sized_by_picture(partial(edits, **unet.instructed(params, pictures)))


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
