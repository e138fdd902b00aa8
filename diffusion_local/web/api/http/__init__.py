"""The HTTP API below ``/api/v1``, documented at ``/docs``. Most routes derive from the registry of operations."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from diffusion_local.errors import NotFound
from diffusion_local.messages import message
from diffusion_local.operations.operation import API_ROOT
from diffusion_local.studio import Studio
from diffusion_local.web.api.http import derived, jobs, library, lists, reports, streams
from diffusion_local.web.api.schemas import Problem
from diffusion_local.web.api.watch import Watch

#: Error responses of every route.
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        400: "malformed request, or a disallowed host or origin",
        401: "not authenticated",
        403: "not permitted",
        404: "not found",
        409: "its state does not allow this",
        410: "it was deleted",
        411: "the length is missing",
        413: "the body is too long",
        422: "a field is invalid; `field` names it",
        429: "a limit is reached; `Retry-After` gives the seconds",
        503: "temporarily unavailable; `Retry-After` gives the seconds",
    }.items()
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def router(studio: Studio, watch: Watch, calls: APIRouter | None = None) -> APIRouter:
    """``calls``: the route of workers on other machines (see ``workers.router``)."""
    api = APIRouter(prefix=API_ROOT, responses=REFUSALS, generate_unique_id_function=lambda route: route.name)
    parts = [
        jobs.router(studio, watch),
        lists.router(studio),
        library.router(studio),
        reports.router(studio),
        streams.router(studio, watch),
        derived.router(studio, watch),
        *([calls] if calls else []),
    ]
    for part in parts:
        api.include_router(part)
    known = [route for part in parts for route in part.routes if isinstance(route, APIRoute)]

    @api.api_route("/{rest:path}", methods=METHODS, include_in_schema=False)
    def unknown(rest: str) -> None:
        """Respond 404 or 405 to all other requests, which would otherwise reach the page."""
        here = [route for route in known if route.path_regex.match(f"/{rest}")]
        allowed = sorted({verb for route in here for verb in route.methods or ()})
        if allowed:
            raise HTTPException(405, f"Use {' or '.join(allowed)} here.", {"Allow": ", ".join(allowed)})
        raise NotFound(message("no_address"))

    return api
