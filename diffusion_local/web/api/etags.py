"""How the HTTP API answers questions beyond its JSON: entity tags, links to the next page."""

import hashlib
import json
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import shapes

REVALIDATE = {"Cache-Control": "private, no-cache"}


def tagged(request: Request, content: dict[str, Any], more: dict[str, str] | None = None) -> Response:
    """JSON with an ``ETag``; 304 without a body if the caller has it already (RFC 9110, section 13.1.2)."""
    tag = f'"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]}"'
    headers = REVALIDATE | {"ETag": tag} | (more or {})
    if known_already(request, tag):
        return Response(status_code=304, headers=headers)
    return JSONResponse(content, headers=headers)


def known_already(request: Request, tag: str) -> bool:
    """Whether ``If-None-Match`` names the tag."""
    known = [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]
    return tag in known or "*" in known


def linked(request: Request, following: str | None) -> dict[str, str]:
    """The header that links to the next page (RFC 8288)."""
    if not following:
        return {}
    url = request.url.include_query_params(before=following)
    path = shapes.root() + request.scope["path"]  # where a proxy serves us the two differ
    return {"Link": f'<{path}?{url.query}>; rel="next"'}
