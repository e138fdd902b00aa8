"""Formats that pictures are kept in, each with the recipe inside.

PNG has text chunks. WebP and JPEG have EXIF: the A1111 text as UserComment, as AUTOMATIC1111's web UI writes it, and
our JSON, in ASCII, as ImageDescription.
"""

import io
import json
from dataclasses import dataclass
from typing import IO

from PIL import ExifTags
from PIL import Image as PIL
from PIL.PngImagePlugin import PngInfo

from diffusion_local.gallery.recipes import A1111_KEY, JSON_KEY

PNG_LEVEL = 4  # as small as 6 and a third faster (measured at 512 and 1024 pixels)
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".full.webp"}
MOST_EXIF = 65_500  # bytes that a JPEG's one segment holds, less its head
LARGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}
UNICODE = b"UNICODE\0"
THUMBNAIL = (320, 320)
QUALITY, PREVIEW_QUALITY = 82, 60


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is kept: the bytes of its file in a format of SUFFIXES with the recipe inside, of its thumbnail
    (WebP) and of its sidecar (JSON; empty if there is to be none)."""

    form: str
    data: bytes
    thumbnail: bytes
    sidecar: bytes = b""


def encode(picture: PIL.Image, texts: dict[str, str], form: str = "png", with_sidecar: bool = False) -> Encoded:
    """Encode a picture with its recipe, as PNG where ``form`` cannot hold it."""
    form = form if holds(form, picture, texts) else "png"
    file = io.BytesIO()
    write(file, form, picture, texts)
    thumbnail = webp(draw_thumbnail(picture), QUALITY)
    return Encoded(form, file.getvalue(), thumbnail, sidecar(texts) if with_sidecar else b"")


def draw_thumbnail(picture: PIL.Image) -> PIL.Image:
    small = picture.convert("RGB")
    small.thumbnail(THUMBNAIL, PIL.Resampling.LANCZOS)
    return small


def webp(picture: PIL.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def exif(texts: dict[str, str]) -> bytes:
    found = PIL.Exif()
    if ours := texts.get(JSON_KEY):
        found[ExifTags.Base.ImageDescription] = json.dumps(json.loads(ours))
    if text := texts.get(A1111_KEY):
        found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + text.encode("utf-16-be")
    return found.tobytes()


def holds(form: str, picture: PIL.Image, texts: dict[str, str]) -> bool:
    """Whether a format can take a picture of this size with its whole recipe. PNG always can."""
    if form == "png":
        return True
    return max(picture.size) <= LARGEST_SIDE[form] and (form != "jpeg" or len(exif(texts)) <= MOST_EXIF)


def write(file: IO[bytes], form: str, picture: PIL.Image, texts: dict[str, str], quality: int | None = None) -> None:
    """``quality`` is 0 to 100, of JPEG and WebP; none is that of pictures that are kept."""
    if form == "jpeg":
        encoded = io.BytesIO()  # given a file, Pillow's JPEG encoder hides why a write failed
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
    """Our JSON with A1111's text in it, for a file beside the picture."""
    told = json.loads(texts.get(JSON_KEY, "{}")) | {A1111_KEY: texts.get(A1111_KEY, "")}
    return (json.dumps(told, ensure_ascii=False, indent=2) + "\n").encode()
