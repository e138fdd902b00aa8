"""The HTTP API below ``/api/v1``: routes by noun, each one sentence to the Studio. Documented at ``/docs``."""

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from diffusion_local.errors import NotFound
from diffusion_local.studio import Studio
from diffusion_local.web.api.http import (
    batches,
    boards,
    grids,
    images,
    jobs,
    lists,
    models,
    queue,
    reports,
    sources,
    steering,
    streams,
)
from diffusion_local.web.api.watch import Watch

ROOT = "/api/v1"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def router(studio: Studio, watch: Watch) -> APIRouter:
    api = APIRouter(prefix=ROOT)
    parts = [
        steering.router(studio),
        jobs.router(studio, watch),
        lists.router(studio),
        sources.router(studio),
        batches.router(studio),
        grids.router(studio),
        images.router(studio),
        boards.router(studio),
        queue.router(studio),
        models.router(studio),
        reports.router(studio),
        streams.router(studio, watch),
    ]
    for part in parts:
        api.include_router(part)
    known = [route for part in parts for route in part.routes if isinstance(route, APIRoute)]

    @api.api_route("/{rest:path}", methods=METHODS, include_in_schema=False)
    def unknown(rest: str) -> None:
        """What nothing above has taken; without this it would be the page's business."""
        here = [route for route in known if route.path_regex.match(f"/{rest}")]
        allowed = sorted({verb for route in here for verb in route.methods or ()})
        if allowed:
            raise HTTPException(405, f"Use {' or '.join(allowed)} here.", {"Allow": ", ".join(allowed)})
        raise NotFound("There is no such address. /docs lists those there are.")

    return api
