"""The engine half of a family of models: functions that load, prompt and denoise its models."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import autoencoder
from diffusion_local.engine.img2img import SourceCanvas
from diffusion_local.options.table import Params

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
    """Functions of one family.

    ``load(folder, dtype, parts)`` builds a pipeline on the CPU from loaded parts. ``embed(pipe, prompt, negative,
    clip_skip)`` encodes a prompt; ``negative`` is None without classifier-free guidance, as ``uses_guidance(pipe,
    guidance)`` decides. ``latent_shape(pipe, width, height)`` is 1 x C x h x w, and ``encode(pipe, pixels)`` encodes a
    picture to latents of that shape.

    A pipeline may use another layout: ``start(pipe, latents)`` converts to its input (``scales_start``: it multiplies
    that by the scheduler's ``init_noise_sigma``), ``pack(pipe, latents)`` to its layout between steps. The following
    return functions that hold no reference to the model, because a preview may wait in a thread: ``unpack(pipe, width,
    height)`` reverses ``pack``, ``to_vae_latents(pipe)`` converts unpacked latents for the VAE, and
    ``unpack_output(pipe, width, height)`` unpacks the pipeline's output.

    ``prompt_tensors(conditioning)``: tensors to replace for changing a running pipeline's prompt; None if it cannot
    change. ``call(params)``: further call arguments. ``run(pipe)``: the callable to denoise with. ``inpainting(pipe)``:
    the pipeline for a UNet that reads a mask; ``fill(pipe, canvas)``: context of a loop for a transformer that does.
    ``refer(pipe, params, pictures)``: the callable that also reads reference pictures (RGB), and ``embed_with(pipe,
    prompt, negative, pictures)`` encodes a prompt together with them; None if the family reads none. ``together``:
    several pictures may share a pass, and a pass may be held; ``tests/engine/passes.py`` checks it. ``halves``: with
    guidance, each step calls the denoiser once, a UNet, with the rows (negative | prompt).
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
    halves: bool = False
    inpainting: Callable[[Any], Any] | None = None
    refer: Callable[[Any, Params, list[PIL.Image]], Callable[..., Any]] | None = None
    fill: Callable[[Any, SourceCanvas | None], AbstractContextManager[None]] = lambda pipe, canvas: nullcontext()
    embed_with: Callable[[Any, str, str | None, list[PIL.Image]], Conditioning] | None = None
