"""Picture file formats, each with the recipe embedded.

PNG uses text chunks. WebP and JPEG use EXIF: the A1111 text in UserComment, like AUTOMATIC1111's web UI, and our JSON
(ASCII) in ImageDescription.
"""

import io
import json
from dataclasses import dataclass
from typing import IO

from PIL import ExifTags
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo

from diffusion_local.gallery.recipes import A1111_KEY, JSON_KEY

PNG_LEVEL = 4  # files as small as with level 6, a third faster (measured at 512 and 1024 pixels)
SUFFIX_BY_FORMAT = {"png": ".png", "jpeg": ".jpg", "webp": ".full.webp"}
#: Media types of picture files.
TYPE_BY_SUFFIX = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
MAX_EXIF = 65_500  # bytes in a JPEG's single EXIF segment, less its header
MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
UNICODE = b"UNICODE\0"
THUMBNAIL = (320, 320)
QUALITY, PREVIEW_QUALITY = 82, 60


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded picture: file bytes in a format of SUFFIX_BY_FORMAT with the recipe embedded, thumbnail (WebP), and
    sidecar (JSON, or empty).
    """

    form: str
    data: bytes
    thumbnail: bytes
    sidecar: bytes = b""


def encode(picture: PIL.Image, texts: dict[str, str], form: str = "png", with_sidecar: bool = False) -> Encoded:
    """Encode a picture with its recipe; as PNG if ``form`` cannot hold it."""
    form = form if can_hold(form, picture, texts) else "png"
    file = io.BytesIO()
    write(file, form, picture, texts)
    thumbnail = webp(draw_thumbnail(picture), QUALITY)
    return Encoded(form, file.getvalue(), thumbnail, sidecar(texts) if with_sidecar else b"")


def draw_thumbnail(picture: PIL.Image) -> PIL.Image:
    small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    small.thumbnail(THUMBNAIL, PIL.Resampling.LANCZOS)
    return small


def webp(picture: PIL.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def exif(texts: dict[str, str]) -> bytes:
    tags = PIL.Exif()
    if recipe := texts.get(JSON_KEY):
        tags[ExifTags.Base.ImageDescription] = json.dumps(json.loads(recipe))
    if text := texts.get(A1111_KEY):
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + text.encode("utf-16-be")
    return tags.tobytes()


def can_hold(form: str, picture: PIL.Image, texts: dict[str, str]) -> bool:
    """Whether a format can hold a picture of this size with its whole recipe. PNG always can."""
    if form == "png":
        return True
    if form == "jpeg" and picture.has_transparency_data:
        return False
    return max(picture.size) <= MAX_SIDE[form] and (form != "jpeg" or len(exif(texts)) <= MAX_EXIF)


def write(file: IO[bytes], form: str, picture: PIL.Image, texts: dict[str, str], quality: int | None = None) -> None:
    """Write a picture with its recipe. ``quality``: 0 to 100 for JPEG and WebP; None: that of gallery pictures."""
    if form == "jpeg":
        encoded = io.BytesIO()  # with a file, Pillow's JPEG encoder would hide the reason of a failed write
        picture.convert("RGB").save(
            encoded, "JPEG", quality=95 if quality is None else quality, subsampling=0, exif=exif(texts)
        )
        file.write(encoded.getbuffer())
    elif form == "webp":
        picture.save(file, "WEBP", quality=92 if quality is None else quality, exif=exif(texts))
    else:
        info = PngInfo()
        for keyword, text in texts.items():
            info.add_itxt(keyword, text)
        picture.save(file, "PNG", pnginfo=info, compress_level=PNG_LEVEL)


def sidecar(texts: dict[str, str]) -> bytes:
    """The content of a sidecar file: our JSON with A1111's text added."""
    content = json.loads(texts.get(JSON_KEY, "{}")) | {A1111_KEY: texts.get(A1111_KEY, "")}
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
