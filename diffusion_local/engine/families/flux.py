"""FLUX.1 dev, schnell and Kontext. Guidance is an input of the model, or distilled into it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.engine import inputs, transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    longest = 512 if pipe.transformer.config.guidance_embeds else 256  # schnell was trained with fewer
    positive, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device, max_sequence_length=longest)
    return {"prompt_embeds": positive, "pooled_prompt_embeds": pooled}


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    """Kontext: of a model that was trained with one picture."""
    kontext = inputs.with_same_parts(diffusers.FluxKontextPipeline, pipe)
    return partial(kontext, image=pictures[0], max_area=params.width * params.height)


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.FluxPipeline),
    embed,
    transformer.never_uses_guidance,
    **transformer.PACKED,
    together=True,
    refer=refer,
)
