"""Images: the gallery. The files themselves are at the ``url`` and ``thumbnail_url`` of each."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import shapes
from diffusion_local.store.recipe import a1111_text
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import paged, tagged
from diffusion_local.web.api.fields import Star


def router(studio: Studio) -> APIRouter:
    images = APIRouter(prefix="/images", tags=["images"])

    @images.get("")
    def list_images(
        request: Request,
        limit: int = 48,
        before: str = "",
        search: str = "",
        starred: bool = False,
        trashed: bool = False,
    ) -> JSONResponse:
        """Pictures, newest first: give `next` as `before` to read on. `search` looks into the prompts."""
        found = studio.gallery(limit, before or None, search, starred, trashed)
        following = found[-1].id if len(found) == limit else None
        return paged(request, "images", [shapes.image(each) for each in found], following)

    @images.get("/{image_id}")
    def one_image(image_id: str, request: Request) -> Response:
        """A picture with its recipe and the addresses of its files."""
        return tagged(request, shapes.image(studio.image(image_id)))

    @images.get("/{image_id}/recipe")
    def recipe(image_id: str, request: Request) -> Response:
        """How a picture was made: `params` (to be submitted again as they are), and `text` as A1111 writes it."""
        image = studio.image(image_id)
        return tagged(request, {"params": shapes.params(image), "text": a1111_text(image.params)})

    @images.patch("/{image_id}")
    def star(image_id: str, body: Star) -> dict[str, Any]:
        """Set or take away a picture's star."""
        return shapes.image(studio.star(image_id, body.starred))

    @images.delete("/{image_id}")
    def trash(image_id: str) -> dict[str, Any]:
        """Move a picture into the trash, out of which it can be restored."""
        return shapes.image(studio.trash(image_id))

    @images.post("/{image_id}/restore")
    def restore(image_id: str) -> dict[str, Any]:
        return shapes.image(studio.restore(image_id))

    return images
