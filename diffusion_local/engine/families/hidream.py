"""HiDream I1 (Full, Dev, Fast), with its four text encoders."""

from collections.abc import Callable
from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    t5, t5_against, llama, llama_against, pooled, pooled_against = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        do_classifier_free_guidance=negative is not None,
        negative_prompt=negative or None,
    )
    return {
        "prompt_embeds_t5": t5,
        "negative_prompt_embeds_t5": t5_against,
        "prompt_embeds_llama3": llama,
        "negative_prompt_embeds_llama3": llama_against,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": pooled_against,
    }


def run(pipe: Any) -> Callable[..., Any]:
    """The pipeline at the requested size: by default it would rescale every size to its default number of pixels."""

    def painted(width: int, height: int, **arguments: Any) -> Any:
        # slightly larger, because the pipeline rounds the size down to whole patches
        pipe.default_sample_size = (width * height) ** 0.5 * (1 + 1e-9) / pipe.vae_scale_factor
        return pipe(width=width, height=height, **arguments)

    return painted


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.HiDreamImagePipeline),
    embed,
    transformer.uses_guidance,
    transformer.latent_shape,
    run=run,
)
