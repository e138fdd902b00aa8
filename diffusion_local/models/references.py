"""Rules about pictures that a model reads beside the prompt."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusion_local import families
from diffusion_local.domain import Params
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.options import values
from diffusion_local.options.limits import Defaults, Limits, nearest_size
from diffusion_local.options.types import Use
from diffusion_local.options.validate import SizeOf

#: Least side in pixels of a picture that a model reads, and how many times the other side may be as long.
MIN_SIDE, MAX_RATIO = 64, 8


def shaped(defaults: Defaults, given: Mapping[str, Any], limits: Limits, size_of: SizeOf) -> Defaults:
    """The defaults with the proportions of the first picture that the model reads, and about as many pixels."""
    try:
        found = values.references("references", given.get("references") or ())
        first = next((each.image for each in found if each.use is Use.EDIT), "")
        width, height = size_of(first) if first else (0, 0)
    except UserError:  # reported by the validation
        return defaults
    if not width:
        return defaults
    scale = (defaults.width * defaults.height / (width * height)) ** 0.5
    width, height = nearest_size(max(1, round(width * scale)), max(1, round(height * scale)), limits)
    return replace(defaults, width=width, height=height)


def check(params: Params, model: str, architecture: str, size_of: SizeOf) -> None:
    """Raise InvalidParams for references that the model does not read."""
    most = families.references_of(architecture)
    read = [each for each in params.references if each.use is Use.EDIT]
    if read and not most:
        raise InvalidParams("references", message("no_references", model=model))
    if len(read) > most:
        raise InvalidParams("references", message("references_most", most=most, model=model, got=len(read)))
    if not read and families.needs_reference(architecture):
        raise InvalidParams("references", message("reference_needed", model=model))
    for each in read:
        width, height = size_of(each.image)
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_RATIO * min(width, height):
            least, ratio = MIN_SIDE, MAX_RATIO
            raise InvalidParams(
                "references", message("reference_shape", least=least, ratio=ratio, got=f"{width}x{height}")
            )
