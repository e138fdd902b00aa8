"""FLUX.2 dev. Guidance is an input of the model."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from diffusion_local.engine import transformer
from diffusion_local.engine.families import flux2
from diffusion_local.engine.family import Change, Conditioning, EngineFamily, Parts


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    """Load with the tokenizer in place of the processor, which also handles pictures and would need torchvision."""
    pipe = transformer.pipeline_loader(diffusers.Flux2Pipeline)(folder, dtype, parts | {"tokenizer": None})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pipe.register_modules(tokenizer=tokenizer)
    return pipe


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return {"prompt_embeds": pipe.encode_prompt(prompt, pipe._execution_device)[0]}


def end(pipe: Any, width: int, height: int) -> Change:
    spread, plain = flux2.unpack(pipe, width, height), flux2.to_vae_latents(pipe)
    return lambda latents: plain(spread(latents))


FAMILY = EngineFamily(
    load,
    embed,
    transformer.never_uses_guidance,
    flux2.latent_shape,
    pack=flux2.pack,
    unpack=flux2.unpack,
    unpack_output=end,
    to_vae_latents=flux2.to_vae_latents,
    encode=flux2.encode,
    together=True,
    refer=flux2.refer,
)
