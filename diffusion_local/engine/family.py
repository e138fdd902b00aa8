"""What a family of models consists of: functions that differ from one to the next."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_local.domain import Params
from diffusion_local.engine import autoencoder

#: Parts of a pipeline by name.
Parts = dict[str, Any]
#: Arguments of a pipeline call that carry the prompt.
Conditioning = dict[str, Any]


def sized_and_guided(params: Params) -> dict[str, Any]:
    return {"width": params.width, "height": params.height, "guidance_scale": params.guidance}


@dataclass(frozen=True, slots=True)
class Family:
    """``load(folder, dtype, parts)`` gives a pipeline on the CPU, of parts that have their weights already.

    ``embed(pipe, prompt, negative, clip_skip)`` gives what it is to draw; ``negative`` is None without classifier-free
    guidance: ``guided(pipe, guidance)`` says whether there is. ``shape(pipe, width, height)`` is that of the latents,
    1 x C x h x w; a pipeline may want them in another order, which ``pack(pipe, latents)`` gives and
    ``unpack(latents, width, height, scale)`` takes back, from plain numbers (``scale``: pixels of a latent's side), so
    that a preview keeps no model. ``scales_start``: it multiplies the latents it is given by the
    scheduler's ``init_noise_sigma``. ``encode(pipe, pixels)`` gives latents; ``call(params)`` further arguments;
    ``inpainting(pipe)`` the pipeline for a UNet that reads a mask.
    """

    load: Callable[[Path, torch.dtype, Parts], Any]
    embed: Callable[[Any, str, str | None, int], Conditioning]
    guided: Callable[[Any, float], bool]
    shape: Callable[[Any, int, int], tuple[int, ...]]
    pack: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, latents: latents
    unpack: Callable[[torch.Tensor, int, int, int], torch.Tensor] = lambda latents, width, height, scale: latents
    call: Callable[[Params], dict[str, Any]] = sized_and_guided
    encode: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, pixels: autoencoder.encode(pipe.vae, pixels)
    latents_dtype: torch.dtype | None = None
    scales_start: bool = False
    inpainting: Callable[[Any], Any] | None = None
