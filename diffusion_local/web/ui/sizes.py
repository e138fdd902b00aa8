"""Sizes as the shapes a person picks from, for each model."""

import math
from typing import Any

from diffusion_local.models.catalog import Model
from diffusion_local.options.limits import Limits

#: Width : height of the upright shapes; the first is every model's own size. Each but the first can be turned.
SHAPES = ((1, 1), (4, 5), (3, 4), (2, 3), (9, 16))


def sizes(model: Model, landscape: bool = False) -> list[tuple[str, str]]:
    """Shapes near the model's own number of pixels, as ("3:4", "WIDTHxHEIGHT")."""
    area = model.defaults.width * model.defaults.height
    found = []
    for shape in SHAPES:
        across, down = reversed(shape) if landscape else shape
        width = fitting(math.sqrt(area * across / down), model.limits)
        height = fitting(math.sqrt(area * down / across), model.limits)
        if width * height <= model.limits.max_pixels:
            found.append((f"{across}:{down}", f"{width}x{height}"))
    return found


def fitting(side: float, limits: Limits) -> int:
    rounded = round(side / limits.multiple) * limits.multiple
    return max(limits.min_size, min(limits.max_size, rounded))


def landscape(width: Any, height: Any) -> bool:
    return all(isinstance(side, int | float) for side in (width, height)) and width > height


def size_of(model: Model, width: Any, height: Any) -> str | None:
    """The shape that has this size, if one does."""
    known = [value for _, value in sizes(model, landscape(width, height))]
    chosen = f"{width}x{height}"
    return chosen if chosen in known else None


def moved(before: Model, model: Model, width: Any, height: Any) -> tuple[Any, Any]:
    """A size of one model as one of another: the same shape; a size of its own stays if that model takes it."""
    lying = landscape(width, height)
    shapes = {value: shape for shape, value in sizes(before, lying)}
    shape = shapes.get(f"{width}x{height}")
    for each, value in sizes(model, lying):
        if each == shape:
            across, down = value.split("x")
            return int(across), int(down)
    limits = model.limits
    sides = (width, height)
    if all(isinstance(side, int | float) and limits.min_size <= side <= limits.max_size for side in sides):
        return width, height
    return model.defaults.width, model.defaults.height
