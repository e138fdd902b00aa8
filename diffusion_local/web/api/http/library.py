"""Routes of pictures and models that the registry of operations cannot derive: source pictures, recipes, rescans.

A source picture is sent once, then referred to by its id. The files of images are at the ``url`` and ``thumbnail_url``
of each.
"""

from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import authority, serializers
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.recipes import read_picture
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.verdicts import PLACES
from diffusion_local.operations import answers
from diffusion_local.options import a1111
from diffusion_local.studio import Studio
from diffusion_local.web.api.http_headers import tagged
from diffusion_local.web.api.schemas import BINARY, FILE_FORM, MODEL, PARAMS, schema, several, typed
from diffusion_local.web.api.uploads import picture_of

PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/avif", "image/heic", "application/octet-stream")
BODY = {
    "requestBody": {
        "required": True,
        "description": "The picture's bytes, or a form with it as `file`.",
        "content": dict.fromkeys(PICTURE_TYPES, BINARY) | {"multipart/form-data": FILE_FORM},
    }
}
RECIPE: dict[int | str, dict[str, Any]] = {200: {"model": typed("Recipe", params=PARAMS, text=str)}}
FOUND = typed("Scan", models=several(MODEL), **dict.fromkeys(PLACES.values(), several(schema(Adapter))))
SCAN: dict[int | str, dict[str, Any]] = {200: {"model": FOUND}}


def router(studio: Studio) -> APIRouter:
    routes = APIRouter()

    @routes.post(
        "/sources",
        tags=["sources"],
        status_code=201,
        openapi_extra=BODY,
        responses={201: {"model": serializers.SourcePicture}},
    )
    async def add_source(
        request: Request,
        field: Annotated[
            Literal["source", "mask", "references", "controls"], Query(description="what a refusal calls it")
        ] = "source",
    ) -> JSONResponse:
        """Store a picture (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC): its first frame, upright, without metadata,
        with 8 bits per channel. The white parts of a mask are repainted; transparent parts count as black.

        Sending the same picture again returns the same id. The id can be the `source` or `mask` of a submit, or an
        entry of its `references` or `controls`. `recipe` is the recipe found in the file, written by this or another
        program: {"settings", "facts", "others", "tool"}, or null; `others` is not used here.
        """
        authority.check("sources.add")  # before the body is read
        data = await picture_of(request)
        source = await anyio.to_thread.run_sync(studio.sources.add, data, field)
        content = answers.as_json(studio, source)
        content["recipe"] = await anyio.to_thread.run_sync(recipe_in, data)
        return JSONResponse(content, 201, headers={"Location": content["url"]})

    @routes.get("/images/{image_id}/recipe", tags=["images"], responses=RECIPE, response_model=None)
    def recipe(image_id: str, request: Request) -> Response:
        """The recipe of a picture: `params`, which can be submitted again unchanged, and `text` in A1111's format."""
        image = studio.image(image_id)
        return tagged(request, {"params": serializers.params(image), "text": a1111.format_recipe(image.params)})

    @routes.post("/models/scan", tags=["models"], responses=SCAN, response_model=None)
    def scan() -> dict[str, Any]:
        """Rescan all folders for models and adapters."""
        return answers.as_json(studio, {"models": studio.library.models()} | studio.library.adapters())

    return routes


def recipe_in(data: bytes) -> serializers.Json | None:
    """The recipe in a picture's file; None without one, as for most pictures."""
    try:
        found = read_picture(data)
    except InvalidParams:
        return None
    return {"settings": found.settings, "facts": found.facts, "others": found.others, "tool": found.tool}
