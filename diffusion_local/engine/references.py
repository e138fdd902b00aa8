"""Pictures that a model reads beside the prompt: references that a prompt of instructions speaks of."""

from collections.abc import Callable
from typing import Any

from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.engine import img2img
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.options.types import Use


def opened(params: Params, materials: PictureInputs) -> list[PIL.Image]:
    """The references that the model itself reads (RGB; transparent parts are white), in order."""
    ids = [each.image for each in params.references if each.use is Use.EDIT]
    return [img2img.flatten_alpha(materials.source(each), "white").convert("RGB") for each in ids]


def pipeline(loaded: Loaded, params: Params) -> Callable[..., Any]:
    """What is called to denoise: with references a pipeline that reads them. Raises ModelUnavailable without one."""
    if not loaded.pictures:
        return loaded.family.run(loaded.pipe)
    if loaded.family.refer is None:
        raise ModelUnavailable(message("no_references", model=loaded.model.id))
    return loaded.family.refer(loaded.pipe, params, loaded.pictures)


def with_same_parts(pipeline: Any, pipe: Any, **more: Any) -> Any:
    """Another pipeline of diffusers with the parts of one."""
    found = pipeline(**pipe.components, **more)
    found.set_progress_bar_config(disable=True)
    return found
