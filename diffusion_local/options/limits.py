"""A model's defaults and limits, and checks of sizes against them."""

from dataclasses import dataclass, fields
from typing import Any

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.options.values import check_integer


@dataclass(frozen=True, slots=True)
class Defaults:
    """A model's own defaults for the options with these names."""

    width: int = 512
    height: int = 512
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DPM++ 2M"


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's bounds: pixels, steps, and classifier-free guidance scale."""

    min_size: int = 64
    max_size: int = 2048
    max_pixels: int = 2048 * 2048
    multiple: int = 8
    max_steps: int = 150
    max_guidance: float = 30.0


#: Names of the options whose default depends on the model.
FOLLOW_MODEL = tuple(field.name for field in fields(Defaults))


def check_size(width: Any, height: Any, limits: Limits, model_id: str) -> tuple[int, int]:
    size = []
    for field, value in (("width", width), ("height", height)):
        pixels = check_integer(field, value, limits.min_size, limits.max_size)
        if pixels % limits.multiple:
            low = pixels - pixels % limits.multiple
            raise InvalidParams(
                field, message("multiple", multiple=limits.multiple, got=pixels, low=low, high=low + limits.multiple)
            )
        size.append(pixels)
    if size[0] * size[1] > limits.max_pixels:
        raise InvalidParams(
            "width",
            message("pixels", most=limits.max_pixels, model=model_id, got=f"{size[0]}x{size[1]}"),
        )
    return size[0], size[1]


def nearest_size(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """The allowed size closest to a source's, keeping its aspect ratio as far as possible."""
    scale = min(1.0, limits.max_size / max(width, height), (limits.max_pixels / (width * height)) ** 0.5)
    scale = max(scale, limits.min_size / min(width, height))
    low, high = (edge // limits.multiple * limits.multiple for edge in (limits.min_size, limits.max_size))
    fitted = [round(side * scale / limits.multiple) * limits.multiple for side in (width, height)]
    fitted = [max(low, min(high, side)) for side in fitted]
    while fitted[0] * fitted[1] > limits.max_pixels:  # exceeded by rounding up, or by widening a very long picture
        fitted[fitted[1] > fitted[0]] -= limits.multiple
    return fitted[0], fitted[1]
