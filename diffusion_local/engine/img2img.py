"""Image to image and inpainting, through the same pipeline of a model as text to image.

The pipeline gets initial latents and a scheduler that starts late. Once the scheduler knows its noise levels, the
latents are filled with the source, noised for the first level; inpainting restores the source outside the mask after
each step. diffusers' image-to-image and inpainting pipelines do the same (tests compare the pixels). This works for
every family that takes latents, with the same noise as text to image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from PIL import ImageChops, ImageFilter, ImageOps

from diffusion_local.options.inpaint import CONTENTS, EDGES, INPAINT_AREAS, Margins, margins, region
from diffusion_local.options.table import Params

#: Width in pixels of the blend between repainted and original parts. It lies inside the mask, so that pixels outside
#: stay unchanged.
FEATHER = 6
#: (radius, repetitions) of the blurs that spread a mask's surroundings into it, from far to near, as in A1111.
SPREAD = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


@dataclass(frozen=True, slots=True)
class Area:
    """The whole picture around the repainted region, and an alpha mask (L) for pasting the region back."""

    picture: PIL.Image
    alpha: PIL.Image
    box: tuple[int, int, int, int]

    def insert(self, painted: PIL.Image) -> PIL.Image:
        """The whole picture with the repainted box (of any size) inserted."""
        left, top, right, bottom = self.box
        size = (right - left, bottom - top)
        whole = self.picture.copy()
        part = painted if painted.size == size else painted.resize(size, PIL.Resampling.LANCZOS)
        whole.paste(part, (left, top), self.alpha.crop(self.box))
        return whole


@dataclass(frozen=True, slots=True)
class SourceCanvas:
    """A source picture (RGB) and, for inpainting, its mask (L, white is repainted), at the job's size.

    ``whole``: the source cropped to that aspect ratio at full size. For inpainting, ``area``: where the repainted
    region goes; ``soft``: grey mask values limit how far each pixel may change; ``content``: fill of the masked latents
    (noise or zeros), "" for the source's own.
    """

    source: PIL.Image
    mask: PIL.Image | None = None
    whole: PIL.Image | None = None
    area: Area | None = None
    soft: bool = False
    content: str = ""

    def pixels(self) -> torch.Tensor:
        """The source as 1 x 3 x H x W in [-1, 1]."""
        array = torch.from_numpy(np.array(self.source)).movedim(-1, 0)
        return array[None].float() / 127.5 - 1

    def latent_mask(self, size: tuple[int, int]) -> torch.Tensor | None:
        """1 x 1 x h x w: 1 where any of a latent's pixels is repainted, else 0; for a soft mask its grey values."""
        if self.mask is None:
            return None
        white = torch.from_numpy(np.array(self.mask))[None, None].float() / 255
        if self.soft:
            return torch.nn.functional.adaptive_avg_pool2d(white, size)
        return (torch.nn.functional.adaptive_max_pool2d(white, size) > 0.5).float()

    def paste(self, painted: PIL.Image) -> PIL.Image:
        """The repainted region on the source: pixels outside the mask are exactly the source's."""
        return painted if self.area is None else self.area.insert(painted)


def make_canvas(source: PIL.Image, size: tuple[int, int]) -> SourceCanvas:
    """A source scaled to cover a size (width, height) and centre-cropped to it; transparent pixels become white."""
    whole = flatten_alpha(source, "white").convert("RGB")
    fitted = ImageOps.fit(whole, size, PIL.Resampling.LANCZOS) if whole.size != size else whole
    return SourceCanvas(fitted, whole=in_shape(whole, size))


def in_shape(picture: PIL.Image, size: tuple[int, int]) -> PIL.Image:
    """The centre of a picture, cropped to the aspect ratio of a size, at full size."""
    width = min(picture.width, round(picture.height * size[0] / size[1]))
    height = min(picture.height, round(picture.width * size[1] / size[0]))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + max(1, width), top + max(1, height)))


def flatten_alpha(picture: PIL.Image, ground: str) -> PIL.Image:
    """An RGBA picture composited over a background colour; other modes are returned unchanged."""
    if picture.mode != "RGBA":
        return picture
    return PIL.alpha_composite(PIL.new("RGBA", picture.size, ground), picture)


def skipped_steps(steps: int, strength: float) -> int:
    """Number of steps omitted at the start; at least one step is always made."""
    return steps - max(1, min(steps, int(steps * strength)))


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Latents noised for the step at a timestep (shape 1)."""
    if hasattr(scheduler, "scale_noise"):  # flow matching
        mixed: torch.Tensor = scheduler.scale_noise(latents, timestep, noise)
        return mixed
    if scheduler.config.get("prediction_type") == "trigflow":  # the timestep is an angle from picture to noise
        return torch.cos(timestep) * latents + torch.sin(timestep) * noise
    added: torch.Tensor = scheduler.add_noise(latents, noise, timestep)
    return added


def hide_first_timesteps(
    scheduler: Any, first: int, begin: Callable[[], None], ready: Callable[[], None] = lambda: None
) -> None:
    """Show a pipeline only the timesteps from index ``first`` on; the scheduler itself uses all of them.

    ``begin`` is called once all timesteps are set, ``ready`` once the first ones are hidden.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    whole: list[Any] = []

    @wraps(set_timesteps)  # pipelines read the signature
    def set_late(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        begin()
        whole[:] = [scheduler.timesteps]
        scheduler.timesteps = scheduler.timesteps[first:]
        ready()

    @wraps(step)
    def whole_step(*args: Any, **kwargs: Any) -> Any:
        scheduler.timesteps = whole[0]
        return step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = set_late, whole_step


def skip_first_steps(scheduler: Any, skip: int, ready: Callable[[], None]) -> None:
    """Make a scheduler omit its first ``skip`` steps; ``ready`` is called once its timesteps are known.

    The pipeline sees only the remaining timesteps. The scheduler itself gets all of them back before the first step,
    because some schedulers find the last step by its index.
    """
    set_begin_index = getattr(scheduler, "set_begin_index", None)
    first = skip * scheduler.order

    def begin() -> None:
        if set_begin_index:
            set_begin_index(first)

    hide_first_timesteps(scheduler, first, begin, ready)
    if set_begin_index:  # some pipelines set it to 0 themselves
        scheduler.set_begin_index = lambda begin=0: set_begin_index(begin + first)


@dataclass(frozen=True, slots=True)
class StartLatents:
    """Latents of a source (1 x C x h x w, scaled) and the noise to mix in; ``mask`` has the same h and w. ``soft``: the
    mask gives the share of the steps after which each latent may change.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor | None
    soft: bool = False

    def restore_unmasked(self, scheduler: Any, first: int, index: int, latents: torch.Tensor) -> torch.Tensor:
        """Latents after step ``index`` of the scheduler, with the equally noised source outside the mask. ``first``:
        index of the first step made.
        """
        if self.mask is None:
            return latents
        original, free, steps = self.latents, self.mask, len(scheduler.timesteps)
        if index + 1 < steps:
            original = add_noise(scheduler, original, self.noise, scheduler.timesteps[index + 1 : index + 2])
        if self.soft:  # differential diffusion, https://arxiv.org/abs/2306.00950
            if index + 1 >= steps:
                return latents
            free = (1 - self.mask <= (index + 1 - first) / (steps - first)).to(latents)
        return (1 - free) * original + free * latents


def make_inpainting_canvas(source: PIL.Image, mask: PIL.Image | None, params: Params) -> SourceCanvas:
    """The source and its mask at the job's size, prepared by the inpainting options. Transparent pixels of the source
    become white, those of the mask black.
    """
    picture = flatten_alpha(source, "white").convert("RGB")
    shade = PIL.new("L", picture.size) if mask is None else flatten_alpha(mask, "black").convert("L")
    if shade.size != picture.size:
        shade = shade.resize(picture.size, PIL.Resampling.BILINEAR)
    if params.outpaint:
        picture, shade = extended(picture, shade, margins(params.outpaint, picture.size))
    size = (params.width, params.height)
    if params.inpaint_area == INPAINT_AREAS[0]:
        picture, shade = fitted(picture, size), fitted(shade, size)
    soft = params.mask_edges == EDGES[1]
    if soft and params.mask_blur:
        shade = shade.filter(ImageFilter.GaussianBlur(params.mask_blur))
    alpha = alpha_of(shade, 0 if soft else params.mask_blur, soft)
    start = filled(picture, shade) if params.mask_content == CONTENTS[1] else picture
    content = params.mask_content if params.mask_content in CONTENTS[2:] else ""
    marked = ImageChops.lighter(shade, alpha).getbbox() if params.inpaint_area == INPAINT_AREAS[1] else None
    box = region(marked or (0, 0, *picture.size), params.mask_padding, size, picture.size)
    first, white = (each.crop(box).resize(size, PIL.Resampling.LANCZOS) for each in (start, shade))
    return SourceCanvas(first, white, area=Area(picture, alpha, box), soft=soft, content=content)


def fitted(picture: PIL.Image, size: tuple[int, int]) -> PIL.Image:
    """A picture scaled to cover a size (width, height) and centre-cropped to it."""
    if picture.size == size:
        return picture
    filter_ = PIL.Resampling.BILINEAR if picture.mode == "L" else PIL.Resampling.LANCZOS
    return ImageOps.fit(picture, size, filter_)


def alpha_of(mask: PIL.Image, blur: int, soft: bool) -> PIL.Image:
    """How much of the repainted picture is pasted into each pixel. Without blur, only pixels inside the mask change."""
    if blur:
        return mask.filter(ImageFilter.GaussianBlur(blur))
    white = mask.point([255 * (grey > 0) for grey in range(256)]) if soft else mask
    inner = white.filter(ImageFilter.MinFilter(FEATHER | 1)).filter(ImageFilter.GaussianBlur(FEATHER / 2))
    return ImageChops.darker(white, inner)


def extended(picture: PIL.Image, mask: PIL.Image, by: Margins) -> tuple[PIL.Image, PIL.Image]:
    """A picture extended by repeating its edges, and a mask that is white there."""
    spans = ((by.top, by.bottom), (by.left, by.right))
    larger = np.pad(np.array(picture), (*spans, (0, 0)), mode="edge")
    return PIL.fromarray(larger), PIL.fromarray(np.pad(np.array(mask), spans, constant_values=255))


def filled(picture: PIL.Image, mask: PIL.Image) -> PIL.Image:
    """The picture with the masked region replaced by its blurred surroundings."""
    surroundings = PIL.new("RGBa", picture.size)
    surroundings.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageChops.invert(mask))
    background = PIL.new("RGBA", picture.size)
    for radius, times in SPREAD:
        blurred = surroundings.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            background.alpha_composite(blurred)
    return background.convert("RGB")
