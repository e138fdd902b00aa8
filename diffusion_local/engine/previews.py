"""Draws small previews of unfinished latents: a preview pixel is a linear combination of a latent's channels.

The matrix is the least-squares fit between synthetic pictures, downscaled by eight, and their latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PIL

from diffusion_local.engine import autoencoder

LONG_SIDE = 256
_PICTURES = 12
_SIZE = 96


@dataclass(frozen=True, slots=True)
class Factors:
    """rgb = weights · (channels, 1), in [-1, 1]. ``weights``: 3 x (C + 1), fp32 on the CPU."""

    weights: torch.Tensor


def fit_factors(vae: Any) -> Factors | None:
    """The factors of a VAE; None if it has no usable encoder, or one that gives NaN or infinity.

    Deterministic; does not touch the global seed.
    """
    dtype = vae.dtype
    pixels = _synthetic_pictures()
    try:
        vae.to(dtype=torch.float32)  # half precision overflows in the encoder of some models
        with torch.no_grad():
            latents = autoencoder.encode(vae, pixels.to(vae.device)).cpu()
    finally:
        vae.to(dtype=dtype)
    if not torch.isfinite(latents).all():  # which some solvers end by an error of their own
        return None
    small = torch.nn.functional.interpolate(pixels, latents.shape[-2:], mode="area")
    samples = latents.movedim(1, -1).flatten(0, -2)
    samples = torch.cat([samples, torch.ones(len(samples), 1)], dim=1)
    solution = torch.linalg.lstsq(samples, small.movedim(1, -1).flatten(0, -2)).solution
    return Factors(solution.T.contiguous()) if torch.isfinite(solution).all() else None


def begin(latents: torch.Tensor, factors: Factors) -> Callable[[], PIL.Image]:
    """A function that draws the first of the latents as a picture, at most 256 px on the long side, on any thread.

    Latents on the CPU are mixed immediately, on the calling thread: if a second thread computes with torch on the CPU,
    OpenMP has more threads than processors, its waiting threads stop spinning, and every later step takes a third
    longer.
    """
    if latents.device.type != "cpu":
        return lambda: enlarged(mixed(latents, factors))
    return partial(enlarged, mixed(latents, factors))


def mixed(latents: torch.Tensor, factors: Factors) -> npt.NDArray[np.uint8]:
    """Preview pixels (h x w x 3) of the first picture's latents."""
    channels = latents[0].detach().to("cpu", torch.float32)
    weights, bias = factors.weights[:, :-1], factors.weights[:, -1]
    rgb = torch.einsum("rc,chw->hwr", weights, channels) + bias
    pixels: npt.NDArray[np.uint8] = (rgb.clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8).numpy()
    return pixels


def enlarged(pixels: npt.NDArray[np.uint8]) -> PIL.Image:
    """The pixels as a picture, enlarged up to eight times but to at most LONG_SIDE."""
    height, width = pixels.shape[:2]
    scale = min(8, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return PIL.fromarray(pixels).resize(size, PIL.Resampling.BICUBIC)


def _synthetic_pictures() -> torch.Tensor:
    """Smooth colour gradients, and flat colours with hard edges, covering the whole colour range."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_PICTURES, 3, 4, 4, generator=generator) * 2.4 - 1.2
    soft = torch.nn.functional.interpolate(coarse[::2], (_SIZE, _SIZE), mode="bicubic")
    hard = torch.nn.functional.interpolate(coarse[1::2], (_SIZE, _SIZE), mode="nearest")
    return torch.cat([soft, hard]).clamp(-1, 1)
