"""Qwen-Image."""

from typing import Any

import diffusers

from diffusion_local.domain import Params
from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily

#: Of the prompt, as in the pipeline's call.
MOST_TOKENS = 512
#: What its authors have the model compare with where nothing is unwanted.
NOTHING = " "


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    def read(text: str) -> tuple[Any, Any]:
        embedded, mask = pipe.encode_prompt(text, pipe._execution_device, max_sequence_length=MOST_TOKENS)
        return embedded, mask

    positive, mask = read(prompt)
    against, mask_against = (None, None) if negative is None else read(negative or NOTHING)
    return {
        "prompt_embeds": positive,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": against,
        "negative_prompt_embeds_mask": mask_against,
    }


def call(params: Params) -> dict[str, Any]:
    return {"width": params.width, "height": params.height, "true_cfg_scale": params.guidance}


FAMILY = EngineFamily(
    transformer.loads(diffusers.QwenImagePipeline), embed, transformer.guided, **transformer.PACKED, call=call
)
