"""HunyuanImage 2.1, base and distilled. Guidance is applied by a component of the pipeline, or distilled into the
model.
"""

from collections.abc import Callable
from typing import Any

import diffusers

from diffusion_local.engine import transformer
from diffusion_local.engine.family import Conditioning, EngineFamily
from diffusion_local.options.table import Params

#: Guiders for ordinary prompts, and for prompts with text to be rendered.
GUIDERS = ("guider", "ocr_guider")


def uses_guidance(pipe: Any, guidance: float) -> bool:
    return guidance > 1 and any(getattr(pipe, name) is not None for name in GUIDERS)


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    conditioning: Conditioning = {}
    for text, begin in ((prompt, ""), (negative, "negative_")):
        if text is not None:
            read = pipe.encode_prompt(text, pipe._execution_device)
            names = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
            conditioning |= {f"{begin}{name}": tensor for name, tensor in zip(names, read, strict=True)}
    return conditioning


def call(params: Params) -> dict[str, Any]:
    return {"width": params.width, "height": params.height, "distilled_guidance_scale": params.guidance}


def run(pipe: Any) -> Callable[..., Any]:
    """The pipeline with guiders set to the job's guidance."""
    own = {name: getattr(pipe, name) for name in GUIDERS}

    def painted(distilled_guidance_scale: float, **arguments: Any) -> Any:
        changes = {"guidance_scale": distilled_guidance_scale} if distilled_guidance_scale > 1 else {"enabled": False}
        try:
            for name, guider in own.items():
                setattr(pipe, name, None if guider is None else guider.new(**changes))
            return pipe(distilled_guidance_scale=distilled_guidance_scale, **arguments)
        finally:
            for name, guider in own.items():
                setattr(pipe, name, guider)

    return painted


FAMILY = EngineFamily(
    transformer.pipeline_loader(diffusers.HunyuanImagePipeline),
    embed,
    uses_guidance,
    transformer.latent_shape,
    call=call,
    run=run,
)
