"""Source pictures: what img2img, inpainting and upscaling begin from. Sent once, then named by their id."""

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from diffusion_local import authority, serializers
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.recipes import read_picture
from diffusion_local.operations import answers
from diffusion_local.studio import Studio
from diffusion_local.web.api.uploads import picture_of

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": BINARY["schema"]}}}
MEDIA = ("image/png", "image/jpeg", "image/webp", "image/avif", "image/heic", "application/octet-stream")
BODY = {
    "requestBody": {
        "required": True,
        "description": "The picture's bytes, or a form with it as `file`.",
        "content": dict.fromkeys(MEDIA, BINARY) | {"multipart/form-data": FORM},
    }
}


def router(studio: Studio) -> APIRouter:
    sources = APIRouter(tags=["sources"])

    @sources.post(
        "/sources", status_code=201, openapi_extra=BODY, responses={201: {"model": serializers.SourcePicture}}
    )
    async def add_source(
        request: Request,
        field: Annotated[
            Literal["source", "mask", "references", "controls"], Query(description="what a refusal calls it")
        ] = "source",
    ) -> JSONResponse:
        """Keep a picture (PNG, JPEG, WebP, GIF, BMP, AVIF, HEIC): its first frame, upright, without metadata, and
        with 8 bits a channel. Of a mask white is painted anew; what is clear in it counts as black.

        The same picture sent again has the same id. Give the id as `source` or `mask` of a submit, or in its
        `references` or `controls`. `recipe` is what the file says of how it was made, by us or another program:
        {"settings", "facts", "others", "tool"}, or null; `others` is not used here.
        """
        authority.check("sources.add")  # before the body is read
        data = await picture_of(request)
        source = await anyio.to_thread.run_sync(studio.sources.add, data, field)
        told = answers.as_json(studio, source)
        told["recipe"] = await anyio.to_thread.run_sync(recipe_in, data)
        return JSONResponse(told, 201, headers={"Location": told["url"]})

    return sources


def recipe_in(data: bytes) -> serializers.Json | None:
    try:
        found = read_picture(data)
    except InvalidParams:  # most pictures carry none
        return None
    return {"settings": found.settings, "facts": found.facts, "others": found.others, "tool": found.tool}
