"""Families whose denoiser is a transformer trained by flow matching: SD3, FLUX.1 and 2, Z-Image, Sana and its Sprint.

Their pipelines take latents as they are, without the scale of a first sigma.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.domain import Params
from diffusion_local.engine import autoencoder
from diffusion_local.engine.family import Change, Conditioning, Family, Parts, sized_and_guided


def loads(pipeline: Any) -> Any:
    def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
        left_out = {name: None for name, spec in index_of(folder).items() if isinstance(spec, list) and spec[0] is None}
        return pipeline.from_pretrained(
            folder, **left_out | parts, dtype=dtype, local_files_only=True, use_safetensors=True
        )

    return load


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index


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


def unpack_flux(pipe: Any, width: int, height: int) -> Change:
    spread, scale = type(pipe)._unpack_latents, pipe.vae_scale_factor
    return lambda latents: spread(latents, height, width, scale)


def embed_z_image(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, against = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
    )
    return {"prompt_embeds": positive, "negative_prompt_embeds": against or None}


def embed_sana(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return masked_embeds(pipe, prompt, negative, complex_human_instruction=instruction_of(pipe))


def instruction_of(pipe: Any) -> Any:
    """What the pipeline puts before a prompt if nothing else is asked for."""
    return inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default


def masked_embeds(pipe: Any, prompt: str, negative: str | None, **options: Any) -> Conditioning:
    """Of pipelines that tell which of the embeddings are words."""
    positive, mask, against, mask_against = pipe.encode_prompt(
        prompt, negative is not None, negative_prompt=negative or "", device=pipe._execution_device, **options
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt": None,  # its default, an empty text, does not go with embeddings
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


def embed_sprint(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, mask = pipe.encode_prompt(
        prompt, device=pipe._execution_device, complex_human_instruction=instruction_of(pipe)
    )
    return {"prompt_embeds": positive, "prompt_attention_mask": mask}


def call_sprint(params: Params) -> dict[str, Any]:
    """The angle between its two steps is its own; any other number of them is spread evenly."""
    return call_sana(params) | ({} if params.steps == 2 else {"intermediate_timesteps": None})


def pack_sprint(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    scaled: torch.Tensor = latents * pipe.scheduler.config.sigma_data
    return scaled


def unpack_sprint(pipe: Any, width: int, height: int) -> Change:
    sigma = pipe.scheduler.config.sigma_data
    return lambda latents: latents / sigma


def guided_flux2(pipe: Any, guidance: float) -> bool:
    return guidance > 1 and not pipe.config.is_distilled


def embed_flux2(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, _ = pipe.encode_prompt(prompt, pipe._execution_device)
    against = None if negative is None else pipe.encode_prompt(negative, pipe._execution_device)[0]
    return {"prompt_embeds": positive, "negative_prompt_embeds": against}


def shape_flux2(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    """Of patches: two latents wide and high, all their channels one after the other."""
    side = pipe.vae_scale_factor * 2
    return (1, pipe.transformer.config.in_channels, height // side, width // side)


def pack_flux2(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = pipe._pack_latents(latents)
    return packed


def unpack_flux2(pipe: Any, width: int, height: int) -> Change:
    shape = shape_flux2(pipe, width, height)
    return lambda latents: latents.movedim(1, 2).reshape(shape)


def encode_flux2(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    patches = pipe._patchify_latents(autoencoder.encode(pipe.vae, pixels))
    mean, std = statistics_flux2(pipe)
    normal: torch.Tensor = (patches - mean.to(patches)) / std.to(patches)
    return normal


def plain_flux2(pipe: Any) -> Change:
    mean, std = statistics_flux2(pipe)
    spread = type(pipe)._unpatchify_latents
    return lambda latents: spread(latents * std.to(latents) + mean.to(latents))


def statistics_flux2(pipe: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of patches."""
    norm = pipe.vae.bn
    variance = norm.running_var + pipe.vae.config.batch_norm_eps
    return norm.running_mean.view(1, -1, 1, 1).clone(), variance.sqrt().view(1, -1, 1, 1)


def call_sana(params: Params) -> dict[str, Any]:
    """Without the binning that would make another size."""
    return sized_and_guided(params) | {"use_resolution_binning": False}


FAMILIES = {
    "sd3": Family(loads(diffusers.StableDiffusion3Pipeline), embed_sd3, guided, shape_of_whole),
    "flux": Family(
        loads(diffusers.FluxPipeline),
        embed_flux,
        never_guided,
        shape_flux,
        start=pack_flux,
        pack=pack_flux,
        unpack=unpack_flux,
        end=unpack_flux,
    ),
    "flux2": Family(
        loads(diffusers.Flux2KleinPipeline),
        embed_flux2,
        guided_flux2,
        shape_flux2,
        pack=pack_flux2,
        unpack=unpack_flux2,
        plain=plain_flux2,
        encode=encode_flux2,
    ),
    # these pipelines keep latents in fp32, whatever the model runs in
    "z_image": Family(
        loads(diffusers.ZImagePipeline), embed_z_image, guided_z_image, shape_of_whole, latents_dtype=torch.float32
    ),
    "sana": Family(
        loads(diffusers.SanaPipeline),
        embed_sana,
        guided,
        shape_of_whole,
        call=call_sana,
        latents_dtype=torch.float32,
    ),
    "sana_sprint": Family(
        loads(diffusers.SanaSprintPipeline),
        embed_sprint,
        never_guided,
        shape_of_whole,
        call=call_sprint,
        pack=pack_sprint,
        unpack=unpack_sprint,
        latents_dtype=torch.float32,
    ),
}
