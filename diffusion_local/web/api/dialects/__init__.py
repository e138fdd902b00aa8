"""APIs of other servers on top of the Studio, for their existing clients.

Parameters that a client sends by default must work: those that request nothing are ignored, and unsupported sizes and
samplers are adapted, each with a warning in the response. Parameters that would change the picture and cannot be
honoured are refused. A client that disconnects cancels nothing.
"""

from types import ModuleType

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from diffusion_local.errors import NotFound
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects import a1111, cog, comfyui, openai, replicate
from diffusion_local.web.api.watch import Watch

DIALECTS: tuple[ModuleType, ...] = (openai, a1111, cog, replicate, comfyui)
#: Path prefixes of the dialects' routes. ``elsewhere`` answers the requests below them that match no route.
DIALECT_PREFIXES = ("/v1", "/sdapi", "/controlnet", "/predictions", "/replicate")
DIALECT_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    """The routes of all dialects; unknown paths below DIALECT_PREFIXES get 404, known paths with another method 405."""
    api = APIRouter()
    parts = [dialect.router(studio, watch, settings) for dialect in DIALECTS]
    known = [route for part in parts for route in part.routes if isinstance(route, APIRoute)]
    for part in parts:
        api.include_router(part)

    @api.get("/internal/ping", include_in_schema=False)
    def ping() -> dict[str, str]:
        """Clients of A1111 use it to check whether the server is alive."""
        return {}

    def elsewhere(request: Request, rest: str) -> Response:
        here = [route for route in known if route.path_regex.match(request.scope["path"])]
        allowed = ", ".join(sorted({verb for route in here for verb in route.methods or ()}))
        if not allowed:
            raise NotFound(message("no_address"))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allowed})
        raise HTTPException(405, f"Use {allowed} here.", {"Allow": allowed})

    for prefix in DIALECT_PREFIXES:
        api.add_api_route(
            f"{prefix}/{{rest:path}}",
            elsewhere,
            methods=DIALECT_METHODS,
            include_in_schema=False,
            response_class=JSONResponse,
        )
    return api
