"""What an open page asks each second, ``/look``: its parts, as far as they have changed; 204 where none has.

Past Gradio and FastAPI, as every open page asks each second: an unchanged answer costs a tenth of a Gradio event.
"""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from diffusion_local import __version__
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.refusals import NEVER
from diffusion_local.web.ui.look import look


def add(app: FastAPI, studio: Studio) -> None:
    async def answer(request: Request) -> Response:
        found = await run_in_threadpool(look, studio, *read(await request.body()))
        if found is None:
            return Response(status_code=204, headers=NEVER)
        return JSONResponse({"version": __version__, "seen": found[0], "parts": found[1]}, headers=NEVER)

    app.add_route("/look", answer, methods=["POST"], include_in_schema=False)


def read(body: bytes) -> tuple[str, str, list[Any], bool]:
    """(what was seen, the open tab, what the tabs ask for, whether the drawer is open). Raises InvalidParams."""
    try:
        sent = json.loads(body)
        seen, tab, asked, drawer = sent["seen"], sent["tab"], sent["asked"], sent.get("drawer", False)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidParams(
            "body", message("look_json", example='{"seen": "", "tab": "create", "asked": []}')
        ) from None
    if not (isinstance(seen, str) and isinstance(tab, str) and isinstance(asked, list)):
        raise InvalidParams("body", message("look_fields"))
    return seen, tab, asked, drawer is True
