"""LongCat-Image. Its pipeline can also rewrite prompts with the text encoder, which is not done here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.longcat_image.pipeline_longcat_image import prepare_pos_ids

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts, sized_and_guided
from diffusion_local.options.table import Params


def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
    given: Parts = parts | {"text_processor": None}  # only for rewriting prompts
    return transformer.pipeline_loader(diffusers.LongCatImagePipeline)(folder, dtype, given)


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return {
        "prompt_embeds": pipe.encode_prompt(prompt)[0],
        "negative_prompt_embeds": None if negative is None else pipe.encode_prompt(negative)[0],
    }


def run(pipe: Any) -> Callable[..., Any]:
    """The pipeline without its own encoding of the prompt, which fails for embeddings that are given."""

    def embedded(prompt_embeds: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        positions = prepare_pos_ids(modality_id=0, type="text", start=(0, 0), num_token=prompt_embeds.shape[1])
        return prompt_embeds, positions.to(prompt_embeds.device)

    def call_with_embeddings(**arguments: Any) -> Any:
        pipe.encode_prompt = embedded
        try:
            return pipe(**arguments)
        finally:
            del pipe.encode_prompt

    return transformer.told_of_steps(pipe, call_with_embeddings)


def call(params: Params) -> dict[str, Any]:
    return sized_and_guided(params) | {"enable_prompt_rewrite": False}


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    **transformer.PACKED,
    call=call,
    run=run,
    together=True,
)
