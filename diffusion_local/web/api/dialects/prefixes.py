"""The paths under which clients reach the dialects, and the format of errors there.

Clients of OpenAI and of Replicate both use ``/v1``; each dialect also has a prefix of its own, so that none shadows
another: ``/openai/v1``, ``/replicate/v1``, ``/a1111`` and ``/comfyui``. All paths of a dialect lead to the same routes.
Errors from middlewares and missing routes get the dialect's format.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPENAI, A1111, REPLICATE, COG, COMFYUI = "openai", "a1111", "replicate", "cog", "comfyui"
#: First segments of ComfyUI's paths. ComfyUI also serves them below ``/api``, where ``/api/v1`` is ours.
OF_COMFYUI = (
    "prompt|queue|history|view|upload|object_info|system_stats|interrupt|free|embeddings|models|extensions|features|ws"
)
#: Key in the ASGI scope for the dialect whose path the request used.
DIALECT = "diffusion_local.dialect"
#: (dialect, pattern of clients' paths, path of the route); the first match wins.
PATH_ALIASES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (dialect, re.compile(pattern), path)
    for dialect, pattern, path in (
        (REPLICATE, r"(?:/replicate)?/v1(/predictions(?:/.*)?)", r"\1"),
        (
            REPLICATE,
            r"(?:/replicate)?/v1/deployments/([^/]+)/([^/]+)/predictions",
            r"/replicate/v1/models/\1/\2/predictions",
        ),
        (
            REPLICATE,
            r"/v1(/models/[^/]+/[^/]+(?:/.*)?|/(?:collections|deployments|files|trainings)(?:/.*)?"
            r"|/account|/hardware|/webhooks/.*)",
            r"/replicate/v1\1",
        ),
        (REPLICATE, r"/replicate(/v1(?:/.*)?)", r"/replicate\1"),
        (REPLICATE, r"/replicate(/predictions(?:/.*)?)", r"\1"),
        (OPENAI, r"/openai/deployments/[^/]+(/images/.*)", r"/v1\1"),  # Azure's
        (OPENAI, r"(?:/openai)?(/v1(?:/.*)?)", r"\1"),
        (A1111, r"(?:/a1111)?(/(?:sdapi|internal|sdcpp|controlnet)(?:/.*)?)", r"\1"),
        (COG, r"(/predictions(?:/.*)?)", r"\1"),
        (COMFYUI, rf"(?:/comfyui)?(?:/api)?(/(?:{OF_COMFYUI})(?:/.*)?)", r"\1"),
    )
)
#: Formats an error for a dialect: (status, code, message, field) -> body.
Shape = Callable[[int, str, str, str | None], dict[str, Any]]


def openai_shape(status: int, code: str, text: str, field: str | None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
    if status in (401, 403):
        kind = "authentication_error" if status == 401 else "permission_error"
    return {"error": {"message": text, "type": kind, "param": field, "code": code}}


def a1111_shape(status: int, code: str, text: str, field: str | None) -> dict[str, Any]:
    return {"error": code, "detail": text, "body": "", "errors": text}


def replicate_shape(status: int, code: str, text: str, field: str | None) -> dict[str, Any]:
    return {"title": code, "detail": text, "status": status}


def comfyui_shape(status: int, code: str, text: str, field: str | None) -> dict[str, Any]:
    error = {"type": code, "message": text, "details": field or "", "extra_info": {}}
    return {"error": error, "node_errors": {}}


ERROR_SHAPES: dict[str, Shape] = {
    OPENAI: openai_shape,
    A1111: a1111_shape,
    REPLICATE: replicate_shape,
    COG: replicate_shape,
    COMFYUI: comfyui_shape,
}


#: OpenAI and Replicate list models at the same path; Replicate's clients are recognized by their User-Agent.
MODELS, OF_REPLICATE = "/v1/models", b"replicate-"
#: Draw Things serves its configuration at ``/``, where our page is. Requests from Node, such as SillyTavern's, get the
#: configuration, because browsers have another User-Agent.
DRAW_THINGS, OF_NODE = "/sdapi/v1/draw-things", (b"node", b"undici", b"sillytavern")


def route_of(path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> tuple[str, str]:
    """(dialect, path of the route); ("", path) if it belongs to no dialect. Clients that share a path are distinguished
    by their ``headers``.
    """
    if path in (MODELS, "/"):
        values = dict(headers)
        agent = values.get(b"user-agent", b"").lower()
        if path == MODELS and agent.startswith(OF_REPLICATE):
            return REPLICATE, f"/replicate{path}"
        if path == "/" and agent.startswith(OF_NODE) and b"text/html" not in values.get(b"accept", b""):
            return A1111, DRAW_THINGS
    for dialect, pattern, target in PATH_ALIASES:
        found = pattern.fullmatch(path)
        if found:
            return dialect, found.expand(target)
    return "", path


class Paths:
    """ASGI middleware that maps clients' paths to routes; must enclose every middleware that reads the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reads = scope.get("method") in ("GET", "QUERY")
        dialect, path = route_of(scope["path"], scope["headers"] if reads else ())
        if not dialect:
            await self._app(scope, receive, send)
            return
        changed = dict(scope) | {"path": path, DIALECT: dialect}
        if path != scope["path"]:
            changed["raw_path"] = path.encode("utf-8", "surrogateescape")
        answer = ErrorReshaper(send, ERROR_SHAPES[dialect]).send if scope["type"] == "http" else send
        await self._app(changed, receive, answer)


class ErrorReshaper:
    """Forwards a response; errors in the program's own format are converted to the dialect's."""

    def __init__(self, send: Send, shape: Shape) -> None:
        self._send = send
        self._shape = shape
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("application/json"):
                self._start = message
                return
        if message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._reshaped(self._start["status"])
        MutableHeaders(scope=self._start)["content-length"] = str(len(body))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})

    def _reshaped(self, status: int) -> bytes:
        try:
            content = json.loads(self._body)
        except ValueError:
            return self._body
        error = content.get("error") if isinstance(content, dict) else None
        if isinstance(error, dict) and "id" in error:  # see error_responses.error_body
            return json.dumps(self._shape(status, error["code"], error["message"], error.get("field"))).encode()
        if isinstance(content, dict) and set(content) == {"detail"} and isinstance(content["detail"], str):
            return json.dumps(self._shape(status, "not_found", content["detail"], None)).encode()
        return self._body
