"""Shared by families with a UNet and CLIP text encoders."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.engine import img2img, prompts
from diffusion_local.engine.family import Conditioning
from diffusion_local.grammar.weights import without_weights

#: Guidance by the picture of InstructPix2Pix where none is given.
IMAGE_GUIDANCE = 1.5


def unweighted_short_texts(pipe: Any, prompt: str, negative: str | None) -> tuple[str | None, str | None]:
    """Both texts without markup; (None, None) if one has weights or is too long for the encoder."""
    texts = [without_weights(each) for each in (prompt, negative) if each is not None]
    if any(text is None or not prompts.fits(pipe.tokenizer, text) for text in texts):
        return None, None
    return texts[0], texts[1] if negative is not None else None


def prompt_tensors(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The result of ``embed`` as pipelines use it between steps: negative and prompt in one tensor."""
    names = {"prompt_embeds": "prompt_embeds", "add_text_embeds": "pooled_prompt_embeds"}
    found = {}
    for theirs, ours in names.items():
        if ours in conditioning:
            both = [conditioning[f"negative_{ours}"], conditioning[ours]]
            found[theirs] = torch.cat([each for each in both if each is not None])
    return found


def uses_guidance(pipe: Any, guidance: float) -> bool:
    """Distilled models (LCM) have guidance as an input instead."""
    return guidance > 1 and pipe.unet.config.time_cond_proj_dim is None


def instructed(params: Params, pictures: list[PIL.Image]) -> dict[str, Any]:
    """Arguments of InstructPix2Pix's pipelines."""
    canvas = img2img.make_canvas(pictures[0], (params.width, params.height))
    return {"image": canvas.source, "image_guidance_scale": params.image_guidance or IMAGE_GUIDANCE}


def sized_by_picture(run: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline that takes its size from the picture alone."""
    return lambda width, height, **given: run(**given)


def latent_shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.vae.config.latent_channels, height // scale, width // scale)


def upcast_vae(pipe: Any) -> Any:
    """The pipeline, with its VAE in fp32 if it would overflow in fp16."""
    if pipe.vae.config.force_upcast:
        pipe.vae.to(dtype=torch.float32)
    return pipe
