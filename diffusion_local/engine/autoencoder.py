"""Between pictures and latents.

Pixels are float in [-1, 1], N x 3 x H x W; latents are N x C x h x w, scaled as the denoiser sees them.
"""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.errors import BadImage
from diffusion_local.messages import message


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The mode of the posterior, scaled."""
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std * _scale(vae)


def encode_safely(vae: Any, run: Callable[[], torch.Tensor], in_fp32: Callable[[], None]) -> tuple[torch.Tensor, str]:
    """What ``run`` encodes, with the same second try that ``decode`` has. Raises BadImage."""
    latents, said = run(), ""
    if not torch.isfinite(latents).all() and vae.dtype != torch.float32:
        said = f"the VAE gave no numbers in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        latents = run()
    if not torch.isfinite(latents).all():
        raise BadImage(message("source_nan"))
    return latents, said


def decode(vae: Any, latents: torch.Tensor, in_fp32: Callable[[], None]) -> tuple[PIL.Image, str]:
    """The first picture of the latents, and a sentence where it took a second try, else an empty string.

    A half precision VAE that overflows, to NaN or to a black picture, is run again after ``in_fp32``, which makes it
    compute in fp32 from then on. Raises BadImage if the latents are not numbers or the picture stays unusable.
    """
    if not torch.isfinite(latents).all():
        raise BadImage(message("out_of_range"))
    mean, std = _statistics(vae, latents)
    latents = latents / _scale(vae) * std + mean
    pixels, said = _decode(vae, latents), ""
    problem = _unusable(pixels)
    if problem and vae.dtype != torch.float32:
        said = f"the VAE gave {problem} in {str(vae.dtype).removeprefix('torch.')} and was run again in float32"
        in_fp32()
        pixels = _decode(vae, latents)
        problem = _unusable(pixels)
    if problem == "no numbers":
        raise BadImage(message("noise_nan"))
    if problem or pixels is None:
        raise BadImage(message("all_black"))
    return PIL.fromarray(pixels.permute(1, 2, 0).cpu().numpy()), said


def _decode(vae: Any, latents: torch.Tensor) -> torch.Tensor | None:
    """3 x H x W, 8 bits a channel; None where the VAE gave no numbers."""
    pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0][0]
    if not torch.isfinite(pixels).all():
        return None
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _unusable(pixels: torch.Tensor | None) -> str:
    return "no numbers" if pixels is None else "" if pixels.any() else "a black picture"


def _scale(vae: Any) -> float:
    return getattr(vae.config, "scaling_factor", None) or 1.0  # FLUX.2's has none


def _statistics(vae: Any, latents: torch.Tensor) -> tuple[Any, Any]:
    """Mean and standard deviation of the latents by channel (some SDXL kin), or the shift of all (SD3, FLUX)."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return getattr(vae.config, "shift_factor", None) or 0.0, 1.0
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
