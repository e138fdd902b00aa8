"""Converts pictures for the dialects: inverted masks, other formats."""

import io

from PIL import Image as PIL
from PIL import ImageOps

from diffusion_local import image_decoding
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.image_formats import can_hold, write
from diffusion_local.gallery.sources import Sources


def add_source(sources: Sources, data: bytes, field: str) -> PIL.Image:
    """Store a picture as a source and open it; only its header is read. Raises InvalidParams beyond our limits."""
    return PIL.open(io.BytesIO(sources.file(sources.add(data, field).id).read_bytes()), formats=("PNG",))


def invert(mask: PIL.Image) -> bytes:
    """An inverted mask. Raises Overloaded."""
    with image_decoding.share(mask):
        return as_png(ImageOps.invert(mask.convert("L")))


def mask_from_alpha(picture: PIL.Image) -> bytes | None:
    """Convert an OpenAI mask, transparent where the picture is repainted, to one of ours, which is white there. None if
    nothing is transparent. Raises Overloaded.
    """
    if not picture.has_transparency_data:
        return None
    with image_decoding.share(picture):
        clear = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        return as_png(ImageOps.invert(clear.getchannel("A")))


def resize(picture: PIL.Image, size: tuple[int, int], mode: int) -> bytes:
    """Resize a picture by A1111's resize mode: 0 stretches, 2 keeps the whole picture and extends its edges. Returns a
    PNG. Raises Overloaded.
    """
    with image_decoding.share(picture):
        if mode == 0:
            return as_png(picture.resize(size, PIL.Resampling.LANCZOS))
        whole = ImageOps.contain(picture, size, PIL.Resampling.LANCZOS)
        left, top = (size[0] - whole.width) // 2, (size[1] - whole.height) // 2
        filled = PIL.new(whole.mode, size)
        for box, place in edges(whole.size, size, (left, top)):
            filled.paste(whole.resize((place[2] - place[0], place[3] - place[1]), box=box), place)
        filled.paste(whole, (left, top))
        return as_png(filled)


def edges(
    whole: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]
) -> list[tuple[tuple[int, int, int, int], tuple[int, int, int, int]]]:
    """Boxes (left, top, right, bottom) that extend a picture at ``corner`` to a larger size: (a line at its edge, the
    part of the result that this line fills). Empty parts are left out.
    """
    (width, height), (left, top) = whole, corner
    right, bottom = left + width, top + height
    strips = [
        ((0, 0, 1, height), (0, 0, left, size[1])),
        ((width - 1, 0, width, height), (right, 0, size[0], size[1])),
        ((0, 0, width, 1), (0, 0, size[0], top)),
        ((0, height - 1, width, height), (0, bottom, size[0], size[1])),
    ]
    return [(line, place) for line, place in strips if place[2] > place[0] and place[3] > place[1]]


def as_png(picture: PIL.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def convert(stored: StoredFile, form: str, quality: int | None, texts: dict[str, str]) -> bytes:
    """A picture's file in a format, with its recipe (``texts``). A stored PNG is returned unchanged as PNG. Raises
    Overloaded.
    """
    if form == "png" and stored.suffix == ".png":
        return stored.read_bytes()
    with stored.open() as file, PIL.open(file) as picture, image_decoding.share(picture):
        return encode(picture, form, quality, texts)


def encode(picture: PIL.Image, form: str, quality: int | None = None, texts: dict[str, str] | None = None) -> bytes:
    """A picture in a format; without the recipe if the format cannot hold it."""
    recipe = texts if texts and can_hold(form, picture, texts) else {}
    file = io.BytesIO()
    write(file, form, picture.convert("RGB"), recipe, quality)
    return file.getvalue()
