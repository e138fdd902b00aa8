"""ERNIE-Image. Its second language model, which rewrites prompts, is not loaded."""

from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion_local.engine import transformer
from diffusion_local.engine.families import flux2
from diffusion_local.engine.family import Change, Conditioning, EngineFamily, Parts

#: Added to the variance in the pipeline, which ignores the VAE's configuration.
EPSILON = 1e-5


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    return transformer.pipeline_loader(diffusers.ErnieImagePipeline)(
        folder, dtype, parts | {"pe": None, "pe_tokenizer": None}
    )


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    positive = pipe.encode_prompt(prompt, pipe._execution_device)
    against = None if negative is None else pipe.encode_prompt(negative, pipe._execution_device)
    return {"prompt_embeds": positive, "negative_prompt_embeds": against}


def encode(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    return flux2.encode(pipe, pixels, EPSILON)


def to_vae_latents(pipe: Any) -> Change:
    return flux2.to_vae_latents(pipe, EPSILON)


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    to_vae_latents=to_vae_latents,
    unpack_output=lambda pipe, width, height: to_vae_latents(pipe),
    encode=encode,
    together=True,
)
