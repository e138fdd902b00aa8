"""Common to families whose denoiser is a transformer.

Pipelines of those trained by flow matching take latents as they are, without the scale of a first sigma.
"""

import json
from pathlib import Path
from typing import Any

import torch

from diffusion_local.domain import Params
from diffusion_local.engine.family import Conditioning, Parts, sized_and_guided


def loads(pipeline: Any) -> Any:
    def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
        left_out = {name: None for name, spec in index_of(folder).items() if isinstance(spec, list) and spec[0] is None}
        return pipeline.from_pretrained(
            folder, **left_out | parts, dtype=dtype, local_files_only=True, use_safetensors=True
        )

    return load


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index


def guided(pipe: Any, guidance: float) -> bool:
    return guidance > 1


def never_guided(pipe: Any, guidance: float) -> bool:
    """Guidance is an input of the model, or distilled into it."""
    return False


def shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels, height // scale, width // scale)


def masked_embeds(pipe: Any, prompt: str, negative: str | None, **options: Any) -> Conditioning:
    """Of pipelines that tell which of the embeddings are words."""
    positive, mask, against, mask_against = pipe.encode_prompt(
        prompt, negative is not None, negative_prompt=negative or "", device=pipe._execution_device, **options
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt": None,  # its default, an empty text, does not go with embeddings
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


def unbinned(params: Params) -> dict[str, Any]:
    """Without the binning that would make another size."""
    return sized_and_guided(params) | {"use_resolution_binning": False}
