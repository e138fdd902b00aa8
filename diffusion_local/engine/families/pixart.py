"""PixArt-alpha and PixArt-Sigma: a transformer that is sampled like Stable Diffusion. Their pipelines only have the
older step callback, which misses the half steps of second-order samplers and cannot change tensors.
"""

from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    alpha = transformer.index_of(folder)["_class_name"] == "PixArtAlphaPipeline"
    return transformer.pipeline_loader(diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline)(
        folder, dtype, parts
    )


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return transformer.masked_embeds(pipe, prompt, negative)


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    call=transformer.unbinned,
    run=transformer.told_of_steps,
    scales_start=True,
    together=True,
)
