"""Images: the gallery. The files themselves are at the ``url`` and ``thumbnail_url`` of each."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from diffusion_local import shapes
from diffusion_local.domain import Image
from diffusion_local.options import a1111
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import paged, tagged
from diffusion_local.web.api.fields import Star
from diffusion_local.web.api.http.boards import Images

ZIP_HEADERS = {"Content-Disposition": 'attachment; filename="pictures.zip"', "Cache-Control": "no-store"}


class Stars(Images):
    starred: bool = True


def told(images: list[Image]) -> dict[str, Any]:
    return {"images": [shapes.image(each) for each in images]}


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
        model: str = "",
        board: str = "",
        batch: str = "",
        owner: str = "",
        shape: str = "",
        since: str = "",
        until: str = "",
        like: str = "",
    ) -> JSONResponse:
        """Pictures, newest first: give `next` as `before` to read on.

        `search` looks into the prompts: each word must be there, as a whole or as a beginning; "in quotes" as a phrase,
        -word not at all. `shape` is square, portrait or landscape; `since` and `until` are days (UTC); `like` is a
        picture's id, and finds those of the same recipe.
        """
        found = studio.pictures.page(
            limit,
            before,
            search=search.strip(),
            starred=starred,
            trashed=trashed,
            model=model,
            board=board,
            batch=batch,
            owner=owner,
            shape=shape,
            since=since,
            until=until,
            like=like,
        )
        following = found[-1].id if len(found) == limit else None
        return paged(request, "images", [shapes.image(each) for each in found], following)

    @images.get("/zip", response_class=StreamingResponse)
    def zip_images(
        ids: str = "", search: str = "", starred: bool = False, model: str = "", board: str = "", batch: str = ""
    ) -> StreamingResponse:
        """Pictures as one ZIP file, made while it is sent: those of `ids`, with commas, or what a filter finds."""
        chosen = [each for each in ids.split(",") if each]
        pieces = studio.pictures.zip(
            chosen, search=search.strip(), starred=starred, model=model, board=board, batch=batch
        )
        return StreamingResponse(pieces, media_type="application/zip", headers=ZIP_HEADERS)

    @images.post("/star")
    def star_many(body: Stars) -> dict[str, Any]:
        return told(studio.pictures.star(body.image_ids, body.starred))

    @images.post("/trash")
    def trash_many(body: Images) -> dict[str, Any]:
        """Move pictures into the trash: all of them or, where one is not there, none."""
        return told(studio.pictures.trash(body.image_ids))

    @images.post("/restore")
    def restore_many(body: Images) -> dict[str, Any]:
        return told(studio.pictures.restore(body.image_ids))

    @images.post("/delete")
    def delete_many(body: Images) -> dict[str, Any]:
        """Delete pictures of the trash for good, files and all."""
        return {"deleted": studio.pictures.delete(body.image_ids)}

    @images.get("/{image_id}")
    def one_image(image_id: str, request: Request) -> Response:
        """A picture with its recipe and the addresses of its files."""
        return tagged(request, shapes.image(studio.image(image_id)))

    @images.get("/{image_id}/recipe")
    def recipe(image_id: str, request: Request) -> Response:
        """How a picture was made: `params` (to be submitted again as they are), and `text` as A1111 writes it."""
        image = studio.image(image_id)
        return tagged(request, {"params": shapes.params(image), "text": a1111.text(image.params)})

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
