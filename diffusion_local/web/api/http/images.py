"""Images: a picture's recipe. The files themselves are at the ``url`` and ``thumbnail_url`` of each."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from diffusion_local import serializers
from diffusion_local.options import a1111
from diffusion_local.studio import Studio
from diffusion_local.web.api.headers import tagged
from diffusion_local.web.api.schemas import PARAMS, typed

RECIPE: dict[int | str, dict[str, Any]] = {200: {"model": typed("Recipe", params=PARAMS, text=str)}}


def router(studio: Studio) -> APIRouter:
    images = APIRouter(prefix="/images", tags=["images"])

    @images.get("/{image_id}/recipe", responses=RECIPE, response_model=None)
    def recipe(image_id: str, request: Request) -> Response:
        """How a picture was made: `params` (to be submitted again as they are), and `text` as A1111 writes it."""
        image = studio.image(image_id)
        return tagged(request, {"params": serializers.params(image), "text": a1111.format_recipe(image.params)})

    return images
