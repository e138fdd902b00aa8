"""ComfyUI's API for graphs of its standard nodes: prompts, queue, history, pictures, uploads, and events.

A graph is translated to a single submit (``graph``); its jobs wait in the studio's own queue and survive restarts.
Queue, history, pictures and events are separate for each caller. The routes are served at the root and below ``/api``,
as in ComfyUI, and below ``/comfyui`` (``dialects.prefixes``).
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.api.dialects.calls import PerAccount, error_route
from diffusion_local.web.api.dialects.comfyui import files, information, prompts, socket
from diffusion_local.web.api.dialects.comfyui.submitting import Uploads
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.error_responses import headers_of, sentence, status_of

MOST_NAMES = 500  # of uploads, per account


def router(studio: Studio, watch: Watch, settings: Settings) -> APIRouter:
    api = APIRouter(tags=["ComfyUI"], route_class=error_route(comfyui_error), include_in_schema=False)
    api.add_api_websocket_route("/ws", socket.Endpoint(studio, watch).serve)
    uploads, aliases = Uploads(PerAccount(MOST_NAMES)), Aliases.parse(settings.model_aliases)
    prompts.add_submit(api, studio, uploads, aliases, strict=settings.fit == "strict")
    prompts.add_queue(api, studio)
    prompts.add_history(api, studio)
    files.add(api, studio, uploads)
    information.add(api, studio, aliases)
    return api


def comfyui_error(request: Request, error: UserError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidParams) else status_of(error)
    content = {"type": error.code, "message": sentence(request, error), "details": "", "extra_info": {}}
    return JSONResponse({"error": content, "node_errors": {}}, status, headers=headers_of(error))
