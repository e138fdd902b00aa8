"""Pictures in a conversation: input by id or Base64, output as small JPEGs or whole files."""

import io
from typing import Any

from PIL import Image as PIL

from diffusion_local import image_decoding
from diffusion_local.domain import Image
from diffusion_local.options.values import SOURCE_ID, ULID
from diffusion_local.web.api.uploads import decoded

PREVIEW_SIDE = 768  # pixels
PREVIEW_QUALITY = 85
MOST_BYTES = 4_000_000  # of a whole file in a response; larger ones are sent as previews
MOST_PICTURES = 8  # per response
SCHEME = "diffusion-local://images/"
TYPE_BY_MAGIC = {b"\x89PN": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIF": "image/webp"}


def source_of(studio: Any, field: str, text: str) -> str:
    """The id of the source picture that an argument gives: by its id, a gallery picture's id, or as Base64. Raises
    InvalidParams, NotFound.
    """
    stripped = text.strip()
    if SOURCE_ID.fullmatch(stripped):
        return stripped
    if ULID.fullmatch(stripped):
        return str(studio.sources.from_image(stripped).id)
    return str(studio.sources.add(decoded(field, stripped), field).id)


def preview(data: bytes) -> bytes:
    """A picture as a JPEG with at most PREVIEW_SIDE pixels a side. Raises Overloaded."""
    file = io.BytesIO()
    with PIL.open(io.BytesIO(data)) as picture, image_decoding.share(picture):
        picture.draft("RGB", (PREVIEW_SIDE, PREVIEW_SIDE))
        small = picture.convert("RGB")
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        small.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()


def response_picture(data: bytes, whole: bool) -> tuple[bytes, str]:
    """(bytes, media type) of a picture in a response: the whole file if requested and not too large."""
    if whole and len(data) <= MOST_BYTES:
        return data, media_type(data)
    return preview(data), "image/jpeg"


def media_type(data: bytes) -> str:
    return TYPE_BY_MAGIC.get(data[:3], "application/octet-stream")


def uri_of(image: Image) -> str:
    return SCHEME + image.id


def image_id_of(uri: str) -> str | None:
    """The id in one of our URIs; None for any other."""
    found = uri.removeprefix(SCHEME)
    return found if found != uri and ULID.fullmatch(found) else None
