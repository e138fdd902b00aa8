"""What differs from one family of models to the next: how it is loaded and how it reads a prompt.

Plain functions, one pair a family; a new family copies a pair before anything is shared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

#: Parts of a pipeline by name.
Parts = dict[str, Any]
#: Arguments of a pipeline call that carry the prompt.
Conditioning = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """``load(folder, dtype, parts)`` gives a pipeline on the CPU, ``embed(pipe, prompt, negative)`` what it is to draw.

    ``parts`` are those with weights, already loaded. ``negative`` is None where classifier-free guidance is off.
    """

    load: Callable[[Path, torch.dtype, Parts], Any]
    embed: Callable[[Any, str, str | None], Conditioning]


def load_sd(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(
        folder,
        **parts,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        safety_checker=None,
        requires_safety_checker=False,
        feature_extractor=None,
        image_encoder=None,
    )


def embed_sd(pipe: Any, prompt: str, negative: str | None) -> Conditioning:
    positive, against = pipe.encode_prompt(prompt, pipe._execution_device, 1, negative is not None, negative or None)
    return {"prompt_embeds": positive, "negative_prompt_embeds": against}


def load_sdxl(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder,
        **parts,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        add_watermarker=False,
        feature_extractor=None,
        image_encoder=None,
    )
    if pipe.vae.config.force_upcast:  # its VAE overflows in fp16
        pipe.vae.to(dtype=torch.float32)
    return pipe


def embed_sdxl(pipe: Any, prompt: str, negative: str | None) -> Conditioning:
    # An empty negative must be None: SDXL was trained with zeros, not with the embedding of an empty text.
    positive, against, pooled, pooled_against = pipe.encode_prompt(
        prompt, None, pipe._execution_device, 1, negative is not None, negative or None
    )
    return {
        "prompt_embeds": positive,
        "negative_prompt_embeds": against,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled_against,
    }


FAMILIES = {
    "sd": Family(load_sd, embed_sd),
    "sdxl": Family(load_sdxl, embed_sdxl),
}
