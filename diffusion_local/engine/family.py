"""The engine half of a family of models: functions that load, prompt and denoise its models."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.engine import autoencoder

#: Parts of a pipeline by name.
Parts = dict[str, Any]
#: Arguments of a pipeline call that carry the prompt.
Conditioning = dict[str, Any]
#: Latents to latents.
Change = Callable[[torch.Tensor], torch.Tensor]


def unchanged(latents: torch.Tensor) -> torch.Tensor:
    return latents


def sized_and_guided(params: Params) -> dict[str, Any]:
    return {"width": params.width, "height": params.height, "guidance_scale": params.guidance}


@dataclass(frozen=True, slots=True)
class EngineFamily:
    """``load(folder, dtype, parts)`` gives a pipeline on the CPU, of parts that have their weights already.

    ``embed(pipe, prompt, negative, clip_skip)`` gives what it is to draw; ``negative`` is None without classifier-free
    guidance: ``uses_guidance(pipe, guidance)``. ``latent_shape(pipe, width, height)`` is 1 x C x h x w;
    ``encode(pipe, pixels)`` encodes a picture to latents of that shape.

    A pipeline may want latents otherwise: ``start(pipe, latents)`` is what it is handed (``scales_start``: it
    multiplies that by the scheduler's ``init_noise_sigma``), ``pack(pipe, latents)`` how they are between its steps.
    The rest gives functions that keep no model, as a preview may wait in a thread: ``unpack(pipe, width, height)``
    takes the packing back, ``to_vae_latents(pipe)`` makes latents as the VAE has them, and ``unpack_output(pipe, width, height)`` those
    that the pipeline hands out.

    ``prompt_tensors(conditioning)`` gives the tensors by which a running pipeline is told of another prompt; None: it cannot
    be told.

    ``call(params)`` gives further arguments; ``run(pipe)`` what is called with all of them; ``inpainting(pipe)`` the
    pipeline for a UNet that reads a mask.

    ``refer(pipe, params, pictures)`` gives what is called instead to read reference pictures (RGB); None: the family
    reads none. ``embed_with(pipe, prompt, negative, pictures)`` embeds a prompt that is read together with them.

    ``together``: several pictures may share a pass, and a pass may be put aside; ``tests/engine/passes.py`` checks it.
    """

    load: Callable[[Path, torch.dtype, Parts], Any]
    embed: Callable[[Any, str, str | None, int], Conditioning]
    uses_guidance: Callable[[Any, float], bool]
    latent_shape: Callable[[Any, int, int], tuple[int, ...]]
    start: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, latents: latents
    pack: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, latents: latents
    unpack: Callable[[Any, int, int], Change] = lambda pipe, width, height: unchanged
    unpack_output: Callable[[Any, int, int], Change] = lambda pipe, width, height: unchanged
    to_vae_latents: Callable[[Any], Change] = lambda pipe: unchanged
    run: Callable[[Any], Callable[..., Any]] = lambda pipe: pipe
    call: Callable[[Params], dict[str, Any]] = sized_and_guided
    encode: Callable[[Any, torch.Tensor], torch.Tensor] = lambda pipe, pixels: autoencoder.encode(pipe.vae, pixels)
    prompt_tensors: Callable[[Conditioning], dict[str, torch.Tensor]] | None = None
    latents_dtype: torch.dtype | None = None
    scales_start: bool = False
    together: bool = False
    inpainting: Callable[[Any], Any] | None = None
    refer: Callable[[Any, Params, list[PIL.Image]], Callable[..., Any]] | None = None
    embed_with: Callable[[Any, str, str | None, list[PIL.Image]], Conditioning] | None = None
