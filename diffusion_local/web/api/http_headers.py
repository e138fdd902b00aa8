"""Response headers of the HTTP API: entity tags, links to the next page, preferences."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from diffusion_local import serializers

#: Headers of an event stream; nginx does not buffer it.
EVENT_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
MOST_SECONDS = 600.0  # as long as most clients hold a connection open
REVALIDATE = {"Cache-Control": "private, no-cache"}


@dataclass(frozen=True, slots=True)
class Preference:
    """``seconds`` to wait, and the value of ``Preference-Applied``; None if no preference was sent."""

    seconds: float | None = None
    applied: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def read_prefer(header: str | None) -> Preference:
    """Parse ``Prefer``. ``respond-async`` takes precedence over ``wait``; unknown values are ignored (RFC 7240,
    section 2).
    """
    preferences: dict[str, str] = {}
    for each in (header or "").split(","):
        name, _, value = each.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" in preferences:
        return Preference(0.0, "respond-async")
    wait = preferences.get("wait", "")
    if wait.isascii() and wait.isdigit():
        seconds = min(float(wait), MOST_SECONDS)
        return Preference(seconds, f"wait={seconds:.0f}")
    return Preference()


def tagged(request: Request, content: dict[str, Any], more: dict[str, str] | None = None) -> Response:
    """JSON with an ``ETag``; 304 without a body if the caller already has it (RFC 9110, section 13.1.2)."""
    tag = f'"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]}"'
    headers = REVALIDATE | {"ETag": tag} | (more or {})
    if known_already(request, tag):
        return Response(status_code=304, headers=headers)
    return JSONResponse(content, headers=headers)


def known_already(request: Request, tag: str) -> bool:
    """Whether ``If-None-Match`` contains the tag."""
    known = [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]
    return tag in known or "*" in known


def linked(request: Request, following: str | None) -> dict[str, str]:
    """The header that links to the next page (RFC 8288)."""
    if not following:
        return {}
    url = request.url.include_query_params(before=following)
    path = serializers.root() + request.scope["path"]  # behind a proxy with a path, the two differ
    return {"Link": f'<{path}?{url.query}>; rel="next"'}
