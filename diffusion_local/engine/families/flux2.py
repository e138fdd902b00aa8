"""FLUX.2 klein, distilled and base."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
from PIL import Image as PIL

from diffusion_local.engine import autoencoder, transformer
from diffusion_local.engine.family import Change, Conditioning, EngineFamily
from diffusion_local.options.table import Params


def uses_guidance(pipe: Any, guidance: float) -> bool:
    return guidance > 1 and not pipe.config.is_distilled


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive, _ = pipe.encode_prompt(prompt, pipe._execution_device)
    against = None if negative is None else pipe.encode_prompt(negative, pipe._execution_device)[0]
    return {"prompt_embeds": positive, "negative_prompt_embeds": against}


def latent_shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    """Latents are grouped into 2 x 2 patches with concatenated channels."""
    side = pipe.vae_scale_factor * 2
    return (1, pipe.transformer.config.in_channels, height // side, width // side)


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = pipe._pack_latents(latents)
    return packed


def unpack(pipe: Any, width: int, height: int) -> Change:
    patches = latent_shape(pipe, width, height)[1:]
    return lambda latents: latents.movedim(1, 2).reshape(-1, *patches)


def encode(pipe: Any, pixels: torch.Tensor, epsilon: float | None = None) -> torch.Tensor:
    """Pixels to normalised patches of latents; ``epsilon``: see ``statistics``."""
    patches = pipe._patchify_latents(autoencoder.encode(pipe.vae, pixels))
    mean, std = statistics(pipe, epsilon)
    normal: torch.Tensor = (patches - mean.to(patches)) / std.to(patches)
    return normal


def to_vae_latents(pipe: Any, epsilon: float | None = None) -> Change:
    """The reverse of the normalisation and patching in ``encode``."""
    mean, std = statistics(pipe, epsilon)
    spread = type(pipe)._unpatchify_latents
    return lambda latents: spread(latents * std.to(latents) + mean.to(latents))


def statistics(pipe: Any, epsilon: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-channel mean and standard deviation of patches. ``epsilon``: added to the variance (default: the VAE's)."""
    norm = pipe.vae.bn
    variance = norm.running_var + (pipe.vae.config.batch_norm_eps if epsilon is None else epsilon)
    return norm.running_mean.view(1, -1, 1, 1).clone(), variance.sqrt().view(1, -1, 1, 1)


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    return partial(pipe, image=pictures)


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.Flux2KleinPipeline),
    embed,
    uses_guidance,
    latent_shape,
    pack=pack,
    unpack=unpack,
    to_vae_latents=to_vae_latents,
    encode=encode,
    together=True,
    refer=refer,
)
