"""Batches: what was submitted together, as a whole."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from diffusion_local.domain import FINAL
from diffusion_local.shapes import Json
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import tagged
from diffusion_local.web.api.fields import Hold


def router(studio: Studio) -> APIRouter:
    batches = APIRouter(prefix="/batches/{batch_id}", tags=["batches"])

    @batches.get("")
    def one_batch(batch_id: str, request: Request) -> Response:
        """A batch: its name, how many of its jobs are in which state, and whether all have ended."""
        return tagged(request, batch_shape(studio, batch_id))

    @batches.post("/cancel")
    def cancel_batch(batch_id: str) -> dict[str, Any]:
        """Cancel what waits of a batch and stop what runs: the ids it touched."""
        return {"job_ids": studio.cancel(batch_id=batch_id)}

    @batches.post("/pause")
    def pause_batch(batch_id: str, body: Hold | None = None) -> dict[str, Any]:
        """Start no further picture of a batch until it is resumed."""
        studio.pause(batch_id, body is not None and body.give_back)
        return batch_shape(studio, batch_id)

    @batches.post("/resume")
    def resume_batch(batch_id: str) -> dict[str, Any]:
        studio.resume(batch_id)
        return batch_shape(studio, batch_id)

    return batches


def batch_shape(studio: Studio, batch_id: str) -> Json:
    batch, counts = studio.batch(batch_id)
    return asdict(batch) | {
        "lane": str(batch.lane),
        "counts": {str(state): count for state, count in counts.items()},
        "finished": all(count == 0 for state, count in counts.items() if state not in FINAL),
        "jobs_url": f"/api/v1/jobs?batch_id={batch_id}",
        "stream_url": f"/api/v1/batches/{batch_id}/stream",
    }
