"""Families whose denoiser is a transformer trained by flow matching: SD3, FLUX.1, Z-Image, Sana.

Their pipelines take latents as they are, without the scale of a first sigma.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.domain import Params
from diffusion_local.engine.family import Conditioning, Family, Parts, sized_and_guided


def loads(pipeline: Any) -> Any:
    def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        left_out = {name: None for name, spec in index.items() if isinstance(spec, list) and spec[0] is None}
        return pipeline.from_pretrained(
            folder, **left_out | parts, dtype=dtype, local_files_only=True, use_safetensors=True
        )

    return load


def guided(pipe: Any, guidance: float) -> bool:
    return guidance > 1


def guided_z_image(pipe: Any, guidance: float) -> bool:
    """It adds the difference to the positive one, so 0 is off."""
    return guidance > 0


def never_guided(pipe: Any, guidance: float) -> bool:
    """Guidance is an input of the model, or distilled into it."""
    return False


def shape_of_whole(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels, height // scale, width // scale)


def embed_sd3(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against, pooled, pooled_against = pipe.encode_prompt(
        prompt,
        None,
        None,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
        clip_skip=clip_skip - 2 if clip_skip > 2 else None,
    )
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": against,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled_against,
    }


def embed_flux(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    longest = 512 if pipe.transformer.config.guidance_embeds else 256  # schnell was trained with fewer
    positive, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device, max_sequence_length=longest)
    return {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}


def shape_flux(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels // 4, height // scale, width // scale)


def pack_flux(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def unpack_flux(latents: torch.Tensor, width: int, height: int, scale: int) -> torch.Tensor:
    spread: torch.Tensor = diffusers.FluxPipeline._unpack_latents(latents, height, width, scale)
    return spread


def embed_z_image(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
    )
    return {"prompt_embeds": positive, "negative_prompt_embeds": against or None}


def embed_sana(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    positive, mask, against, mask_against = pipe.encode_prompt(
        prompt,
        negative is not None,
        negative_prompt=negative or "",
        device=pipe._execution_device,
        complex_human_instruction=instruction,
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt": None,  # its default, an empty text, does not go with embeddings
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


def call_sana(params: Params) -> dict[str, Any]:
    """Without the binning that would make another size."""
    return sized_and_guided(params) | {"use_resolution_binning": False}


FAMILIES = {
    "sd3": Family(loads(diffusers.StableDiffusion3Pipeline), embed_sd3, guided, shape_of_whole),
    "flux": Family(
        loads(diffusers.FluxPipeline), embed_flux, never_guided, shape_flux, pack=pack_flux, unpack=unpack_flux
    ),
    # its pipeline keeps latents in fp32, whatever the model runs in
    "z_image": Family(
        loads(diffusers.ZImagePipeline), embed_z_image, guided_z_image, shape_of_whole, latents_dtype=torch.float32
    ),
    "sana": Family(loads(diffusers.SanaPipeline), embed_sana, guided, shape_of_whole, call=call_sana),
}
