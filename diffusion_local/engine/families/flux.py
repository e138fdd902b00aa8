"""FLUX.1 dev, schnell, Kontext and Fill. Guidance is an input of the model, or distilled into it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image as PIL

from diffusion_local.engine import inputs, transformer
from diffusion_local.engine.family import Conditioning, EngineFamily
from diffusion_local.engine.graphs import forward_replaced
from diffusion_local.engine.img2img import SourceCanvas
from diffusion_local.options.table import Params


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    longest = 512 if pipe.transformer.config.guidance_embeds else 256  # schnell was trained with fewer
    positive, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device, max_sequence_length=longest)
    return {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    """For FLUX Kontext, which was trained with a single picture."""
    kontext = inputs.with_same_parts(diffusers.FluxKontextPipeline, pipe)
    return partial(kontext, image=pictures[0], max_area=params.width * params.height)


@contextmanager
def fill(pipe: Any, canvas: SourceCanvas | None) -> Iterator[None]:
    """Make FLUX Fill read the masked picture and the mask (white is repainted) with the latents at each step.

    These inputs equal those of diffusers' FluxFillPipeline; the rest of inpainting works as for other models.
    """
    if canvas is None or not transformer.reads_mask(pipe):
        yield
        return
    beside = fill_conditions(pipe, canvas)

    def reading(own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            states = kwargs["hidden_states"]
            more = beside.to(states).expand(states.shape[0], -1, -1)
            return own(*args, **kwargs | {"hidden_states": torch.cat((states, more), 2)})

        return forward

    with forward_replaced(pipe.transformer, reading):
        yield


def fill_conditions(pipe: Any, canvas: SourceCanvas) -> torch.Tensor:
    """1 x patches x channels: the masked picture's latents, and the mask values of each patch's pixels."""
    assert canvas.mask is not None
    white = (torch.from_numpy(np.array(canvas.mask))[None, None].float() / 255 >= 0.5).float()
    latents = FAMILY.encode(pipe, (canvas.pixels() * (1 - white)).to(pipe._execution_device))
    scale = pipe.vae_scale_factor
    rows, columns = white.shape[-2] // scale, white.shape[-1] // scale
    cells = white.view(1, rows, scale, columns, scale).permute(0, 2, 4, 1, 3).reshape(1, scale * scale, rows, columns)
    return torch.cat([transformer.pack(pipe, each.to(latents)) for each in (latents, cells)], 2)


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.FluxPipeline),
    embed,
    transformer.never_uses_guidance,
    **transformer.PACKED,
    together=True,
    refer=refer,
    fill=fill,
)
