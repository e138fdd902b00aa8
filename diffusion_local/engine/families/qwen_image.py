"""Qwen-Image, Qwen-Image-Edit (reads one picture) and Qwen-Image-Edit-Plus (reads several)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image as PIL

from diffusion_local.engine import inputs, transformer
from diffusion_local.engine.family import Conditioning, EngineFamily, Parts
from diffusion_local.options.table import Params

#: Maximum length of the prompt, as in the pipeline's own call.
MOST_TOKENS = 512
#: The negative prompt that the model's authors use in place of an empty one.
EMPTY_PROMPT = " "
#: Area in pixels to which pictures are resized for the text encoder, and the same for Plus.
SEEN, SEEN_BY_PLUS = 1024 * 1024, pipeline_qwenimage_edit_plus.CONDITION_IMAGE_SIZE
PLUS = "QwenImageEditPlusPipeline"


class Processor(transformers.Qwen2VLProcessor):
    """Processor for texts and pictures, without a video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, name: str, value: Any) -> type:
        return type(value)


def load(folder: Path, dtype: Any, parts: Parts) -> Any:
    """The Qwen-Image pipeline for all variants; what only edit models have is stored in extra attributes."""
    pipe = transformer.pipeline_loader(diffusers.QwenImagePipeline)(folder, dtype, parts)
    pipe.processor, pipe.plus = None, transformer.index_of(folder).get("_class_name") == PLUS
    if (folder / "processor").is_dir():
        looks = transformers.AutoImageProcessor.from_pretrained(folder / "processor", local_files_only=True)
        pipe.processor = Processor(looks, pipe.tokenizer)
    return pipe


def embed(pipe: Any, prompt: str, negative: str | None, clip_skip: int) -> Conditioning:
    return embed_both(
        lambda text: pipe.encode_prompt(text, pipe._execution_device, max_sequence_length=MOST_TOKENS), prompt, negative
    )


def embed_with(pipe: Any, prompt: str, negative: str | None, pictures: list[PIL.Image]) -> Conditioning:
    """The text encoder sees the pictures, each in its own aspect ratio."""
    edits = editing(pipe)
    seen = [edits.image_processor.resize(each, *reversed(fitted(each, pipe.plus))) for each in pictures]
    pictures_seen = seen if pipe.plus else seen[0]
    return embed_both(lambda text: edits.encode_prompt(text, pictures_seen, pipe._execution_device), prompt, negative)


def embed_both(read: Callable[[str], tuple[Any, Any]], prompt: str, negative: str | None) -> Conditioning:
    positive, mask = read(prompt)
    against, mask_against = (None, None) if negative is None else read(negative or EMPTY_PROMPT)
    return {
        "prompt_embeds": positive,
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": against,
        "negative_prompt_embeds_mask": mask_against,
    }


def fitted(picture: PIL.Image, plus: bool) -> tuple[int, int]:
    """Width and height at which the text encoder sees a picture."""
    module = pipeline_qwenimage_edit_plus if plus else pipeline_qwenimage_edit
    width, height, *_ = module.calculate_dimensions(SEEN_BY_PLUS if plus else SEEN, picture.width / picture.height)
    return int(width), int(height)


def editing(pipe: Any) -> Any:
    pipeline = diffusers.QwenImageEditPlusPipeline if pipe.plus else diffusers.QwenImageEditPipeline
    return inputs.with_same_parts(pipeline, pipe, processor=pipe.processor)


def refer(pipe: Any, params: Params, pictures: list[PIL.Image]) -> Callable[..., Any]:
    return partial(editing(pipe), image=pictures if pipe.plus else pictures[0])


def call(params: Params) -> dict[str, Any]:
    return {"width": params.width, "height": params.height, "true_cfg_scale": params.guidance}


FAMILY = EngineFamily(
    load,
    embed,
    transformer.uses_guidance,
    **transformer.PACKED,
    call=call,
    refer=refer,
    embed_with=embed_with,
)
