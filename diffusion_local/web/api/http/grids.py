"""X/Y/Z grids: a picture for each combination of some settings, and one labelled sheet of them all."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse

from diffusion_local import shapes
from diffusion_local.domain import Lane
from diffusion_local.studio import Studio
from diffusion_local.web.api.fields import CheckGrid, NewGrid


def router(studio: Studio) -> APIRouter:
    grids = APIRouter(prefix="/grids", tags=["grids"])

    @grids.post("", status_code=202)
    def submit_grid(
        body: NewGrid,
        idempotency_key: Annotated[str | None, Header(description="sent twice it makes one batch")] = None,
    ) -> JSONResponse:
        """Put a grid into the queue, as one batch; its sheet is at `sheet_url`."""
        studio.check_open()
        options = body.model_dump()
        receipt = studio.grids.submit(**options | {"lane": Lane(body.lane)}, idempotency_key=idempotency_key)
        url = shapes.api_url(f"batches/{receipt.batch_id}")
        told = asdict(receipt) | {"status_url": url, "sheet_url": f"{url}/sheet.webp"}
        return JSONResponse(told, 202, headers={"Location": url})

    @grids.post("/check")
    def check_grid(body: CheckGrid) -> shapes.Json:
        """What a grid would make: pictures, heads of columns and rows, models, seconds. Nothing is enqueued."""
        return asdict(studio.grids.check(**body.model_dump()))

    return grids
