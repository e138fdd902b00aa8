"""What inpainting begins from: the source, extended and filled under its mask, and the region of it that is painted."""

import numpy as np
from PIL import Image as PIL
from PIL import ImageChops, ImageFilter, ImageOps

from diffusion_local.domain import Params
from diffusion_local.engine.img2img import FEATHER, Area, SourceCanvas, flatten_alpha
from diffusion_local.options.inpaint import AREAS, CONTENTS, EDGES, Margins, margins, region

#: (radius, times) of the blurs that spread what surrounds a mask into it, from far to near, as A1111 has them.
SPREAD = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def make_canvas(source: PIL.Image, mask: PIL.Image | None, params: Params) -> SourceCanvas:
    """The source and its mask at the size of the job, as the options of inpainting have them. Transparent parts of a
    source are white, those of a mask black."""
    picture = flatten_alpha(source, "white").convert("RGB")
    shade = PIL.new("L", picture.size) if mask is None else flatten_alpha(mask, "black").convert("L")
    if shade.size != picture.size:
        shade = shade.resize(picture.size, PIL.Resampling.BILINEAR)
    if params.outpaint:
        picture, shade = extended(picture, shade, margins(params.outpaint, picture.size))
    size = (params.width, params.height)
    if params.inpaint_area == AREAS[0]:
        picture, shade = fitted(picture, size), fitted(shade, size)
    soft = params.mask_edges == EDGES[1]
    if soft and params.mask_blur:
        shade = shade.filter(ImageFilter.GaussianBlur(params.mask_blur))
    alpha = alpha_of(shade, 0 if soft else params.mask_blur, soft)
    start = filled(picture, shade) if params.mask_content == CONTENTS[1] else picture
    content = params.mask_content if params.mask_content in CONTENTS[2:] else ""
    marked = ImageChops.lighter(shade, alpha).getbbox() if params.inpaint_area == AREAS[1] else None
    box = region(marked or (0, 0, *picture.size), params.mask_padding, size, picture.size)
    first, white = (each.crop(box).resize(size, PIL.Resampling.LANCZOS) for each in (start, shade))
    return SourceCanvas(first, white, area=Area(picture, alpha, box), soft=soft, content=content)


def fitted(picture: PIL.Image, size: tuple[int, int]) -> PIL.Image:
    """Filled to a size, the overhang cut off on two sides."""
    if picture.size == size:
        return picture
    filter_ = PIL.Resampling.BILINEAR if picture.mode == "L" else PIL.Resampling.LANCZOS
    return ImageOps.fit(picture, size, filter_)


def alpha_of(mask: PIL.Image, blur: int, soft: bool) -> PIL.Image:
    """How much of what is painted is pasted into each pixel: without blur only inside of the mask, so that what is kept
    stays as it was."""
    if blur:
        return mask.filter(ImageFilter.GaussianBlur(blur))
    white = mask.point([255 * (grey > 0) for grey in range(256)]) if soft else mask
    inner = white.filter(ImageFilter.MinFilter(FEATHER | 1)).filter(ImageFilter.GaussianBlur(FEATHER / 2))
    return ImageChops.darker(white, inner)


def extended(picture: PIL.Image, mask: PIL.Image, by: Margins) -> tuple[PIL.Image, PIL.Image]:
    """A picture whose edges are repeated outwards, and a mask that is white there."""
    spans = ((by.top, by.bottom), (by.left, by.right))
    larger = np.pad(np.array(picture), (*spans, (0, 0)), mode="edge")
    return PIL.fromarray(larger), PIL.fromarray(np.pad(np.array(mask), spans, constant_values=255))


def filled(picture: PIL.Image, mask: PIL.Image) -> PIL.Image:
    """The picture with what surrounds the mask, blurred, in its place."""
    kept = PIL.new("RGBa", picture.size)
    kept.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageChops.invert(mask))
    found = PIL.new("RGBA", picture.size)
    for radius, times in SPREAD:
        blurred = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            found.alpha_composite(blurred)
    return found.convert("RGB")
