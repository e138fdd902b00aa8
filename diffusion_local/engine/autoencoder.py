"""Between pictures and latents.

Pixels are float in [-1, 1], N x 3 x H x W; latents are N x C x h x w, scaled as the denoiser sees them.
"""

from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.errors import BadImage


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The mode of the posterior, scaled."""
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std * vae.config.scaling_factor


def decode(vae: Any, latents: torch.Tensor) -> PIL.Image:
    """The first picture of the latents. A half precision VAE that overflows is run again, and from then on, in fp32.

    Raises BadImage if the latents are not numbers or the picture is black.
    """
    if not torch.isfinite(latents).all():
        raise BadImage(
            "The model gave numbers out of range instead of a picture. Try another sampler or lower guidance."
        )
    mean, std = _statistics(vae, latents)
    latents = latents / vae.config.scaling_factor * std + mean
    pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
    if not torch.isfinite(pixels).all() and vae.dtype != torch.float32:
        vae.to(dtype=torch.float32)
        pixels = vae.decode(latents.float(), return_dict=False)[0]
    if not torch.isfinite(pixels).all():
        raise BadImage("The picture came out as noise without end (NaN). The model's VAE may be damaged.")
    pixels = (pixels[0].float() / 2 + 0.5).clamp(0, 1)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    if not array.any():
        raise BadImage("The picture came out entirely black. Try another seed or sampler.")
    return PIL.fromarray(array)


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[Any, Any]:
    """Mean and standard deviation of the latents by channel (some SDXL kin), or the shift of all (SD3, FLUX)."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, 1.0
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
