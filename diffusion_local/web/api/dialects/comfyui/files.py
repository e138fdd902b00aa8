"""Routes for pictures: the caller's gallery by file names, and uploads."""

import re

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from diffusion_local import authority
from diffusion_local.errors import NotFound, echo
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.image_formats import TYPE_BY_SUFFIX
from diffusion_local.messages import message
from diffusion_local.options.values import SOURCE_ID
from diffusion_local.serializers import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.comfyui import records
from diffusion_local.web.api.dialects.comfyui.submitting import Uploads, form_of, parsed, with_alpha
from diffusion_local.web.api.dialects.pictures import convert
from diffusion_local.web.files import StoredResponse

FILE_NAME = re.compile(r"(?P<id>[0-9A-HJKMNP-TV-Z]{26}|[0-9a-f]{64})\.(?:png|jpg|webp)")


def add(api: APIRouter, studio: Studio, uploads: Uploads) -> None:
    @api.get("/view")
    def view(filename: str = "", preview: str = "", channel: str = "") -> Response:
        """A picture of the caller by its `filename`; with `preview` (such as `webp;90`) in a smaller format."""
        stored, suffix = file_named(filename)
        if not preview:
            return StoredResponse(stored, TYPE_BY_SUFFIX[suffix], {"Cache-Control": "private, max-age=3600"})
        form, _, quality = preview.partition(";")
        form = form if form in ("webp", "jpeg") else "webp"
        percent = min(max(int(quality), 1), 100) if quality.isdecimal() and len(quality) < 4 else 90
        data = convert(stored, form, percent, {})
        return Response(data, media_type=f"image/{form}")

    def file_named(filename: str) -> tuple[StoredFile, str]:
        """(file, suffix) of a gallery picture, or of an upload under our name or the caller's."""
        match = FILE_NAME.fullmatch(filename)
        if match and not SOURCE_ID.fullmatch(match["id"]):
            image = studio.image(match["id"])
            if records.is_own(image):
                return studio.picture_file(image.id), image.suffix
        source_id = uploads.source_id(studio, filename) if not match or SOURCE_ID.fullmatch(match["id"]) else None
        if source_id is None:
            raise NotFound(message("no_such_picture", id=echo(filename)))
        return studio.sources.file(source_id), ".png"

    @api.post("/upload/image")
    async def upload(request: Request) -> Json:
        """Store the picture in a form (`image`). LoadImage accepts the returned `name`, and the original file name."""
        authority.check("sources.add")  # before the body is read
        name, data, _ = await form_of(request)
        return await anyio.to_thread.run_sync(kept_upload, name, data)

    @api.post("/upload/mask")
    async def upload_mask(request: Request) -> Json:
        """Store a picture (`original_ref`) with the alpha channel of another (`image`): transparent parts are
        repainted.
        """
        authority.check("sources.add")
        name, data, reference = await form_of(request)
        return await anyio.to_thread.run_sync(kept_mask, name, data, reference)

    def kept_upload(name: str, data: bytes) -> Json:
        source = studio.sources.add(data, "image")
        if name:
            uploads.remembered[name] = source.id
        return {"name": f"{source.id}.png", "subfolder": "", "type": "input"}

    def kept_mask(name: str, data: bytes, reference: str) -> Json:
        original = parsed(reference, "original_ref")
        stored, _ = file_named(str(original.get("filename", "")))
        mask = studio.sources.file(studio.sources.add(data, "image").id).read_bytes()  # checked against our limits
        return kept_upload(name, with_alpha(stored.read_bytes(), mask))
