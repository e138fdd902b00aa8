"""Batches: what was submitted together, as a whole; as pictures, a list and files too."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from diffusion_local import shapes
from diffusion_local.shapes import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import REVALIDATE, StoredResponse, paged, tagged
from diffusion_local.web.api.fields import Copy, EditBatch, Hold


def router(studio: Studio) -> APIRouter:
    every = APIRouter(tags=["batches"])
    batches = APIRouter(prefix="/batches/{batch_id}", tags=["batches"])

    @every.get("/batches")
    def list_batches(request: Request, limit: int = 20, before: str = "") -> JSONResponse:
        """Batches with their progress, newest first: give `next` as `before` to read on."""
        found = studio.batches.page(limit, before or None)
        following = found[-1].batch.id if len(found) == limit else None
        return paged(request, "batches", [shapes.progress(each) for each in found], following)

    @batches.get("")
    def one_batch(batch_id: str, request: Request) -> Response:
        """A batch: its name, how many of its jobs are in which state, and `done_at`, when it will be done."""
        return tagged(request, batch_shape(studio, batch_id))

    @batches.patch("")
    def edit_batch(batch_id: str, body: EditBatch) -> dict[str, Any]:
        """Rename a batch, and change what still waits of it: settings of the pictures, and times. All or nothing.

        The batch with `changed`, how many jobs that reached, and `warnings`. An empty time is taken away.
        """
        changes = body.model_dump(exclude_none=True)
        name = changes.pop("name", None)
        edited = studio.batches.edit(batch_id, **changes) if changes or name is None else None
        if name is not None:
            studio.batches.rename(batch_id, name)
        told = {"changed": edited.count if edited else 0, "warnings": edited.warnings if edited else []}
        return batch_shape(studio, batch_id) | told

    @batches.post("/duplicate", status_code=202)
    def duplicate_batch(batch_id: str, body: Copy | None = None) -> JSONResponse:
        """All its pictures again, with the same seeds, as a batch of its own; times are given anew."""
        studio.check_open()
        receipt = studio.batches.duplicate(batch_id, **(body.model_dump() if body else {}))
        url = shapes.api_url(f"batches/{receipt.batch_id}")
        return JSONResponse(asdict(receipt) | {"status_url": url}, 202, headers={"Location": url})

    @batches.post("/cancel")
    def cancel_batch(batch_id: str) -> shapes.Touched:
        """Cancel what waits of a batch and stop what runs: the ids it touched."""
        return {"job_ids": studio.cancel(batch_id=batch_id)}

    @batches.post("/pause")
    def pause_batch(batch_id: str, body: Hold | None = None) -> dict[str, Any]:
        """Start no further picture of a batch until it is resumed."""
        studio.pause_batch(batch_id, body is not None and body.give_back)
        return batch_shape(studio, batch_id)

    @batches.post("/resume")
    def resume_batch(batch_id: str) -> dict[str, Any]:
        studio.resume_batch(batch_id)
        return batch_shape(studio, batch_id)

    @batches.get("/images")
    def batch_images(batch_id: str, request: Request, limit: int = 48, before: str = "") -> JSONResponse:
        """Its pictures in its own order: give `next` as `before` to read on."""
        found = studio.batches.images(batch_id, limit, before or None)
        following = found[-1].id if len(found) == limit else None
        return paged(request, "images", [shapes.image(each) for each in found], following)

    @batches.get("/zip", response_class=StreamingResponse)
    def batch_zip(batch_id: str) -> Response:
        """Its pictures, and the list with what became of them, as one ZIP file."""
        headers = {"Content-Disposition": f'attachment; filename="{batch_id}.zip"', "Cache-Control": "no-store"}
        return StreamingResponse(studio.batches.zip(batch_id), media_type="application/zip", headers=headers)

    @batches.get("/sheet.webp", response_class=StoredResponse)
    def batch_sheet(batch_id: str) -> StoredResponse:
        """Its contact sheet: each picture small, with prompt and seed; of a grid with its axes."""
        return StoredResponse(studio.batches.contact_sheet(batch_id), "image/webp", REVALIDATE)

    every.include_router(batches)
    return every


def batch_shape(studio: Studio, batch_id: str) -> Json:
    return shapes.progress(studio.batches.get(batch_id))
