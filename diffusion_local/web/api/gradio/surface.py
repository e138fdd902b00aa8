"""The only access to Gradio's application: refuses all but the allowed routes, and checks their requests."""

import asyncio
import json
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from diffusion_local import actor
from diffusion_local.errors import InvalidParams, NotFound, UserError
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.web import error_responses
from diffusion_local.web.api.gradio.allowed_routes import AllowedRoute, RouteKind, find
from diffusion_local.web.api.gradio.call_checks import Calls, session_key
from diffusion_local.web.api.request_limits import MOST_BYTES
from diffusion_local.web.error_responses import NOT_CACHED, error_response

REPLY_BYTES = 10_000  # of a response that contains an event id


class Sessions(Protocol):
    """Gradio's record of results that wait to be fetched."""

    def has_endpoint(self, api_name: str, fn_index: object) -> bool: ...

    def has_results(self, key: str) -> bool: ...

    async def forget(self, key: str) -> None: ...


class Surface:
    """ASGI middleware around Gradio's application."""

    def __init__(self, app: ASGIApp, calls: Calls, sessions: Sessions, settings: Settings) -> None:
        self._app = app
        self._calls = calls
        self._sessions = sessions
        self._list_bytes = 2 * settings.max_list_mb * 1_000_000 + MOST_BYTES  # JSON escapes may double a list's size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        try:
            found = find(scope)
            if found is None:
                raise NotFound(message("nothing_here"))
            await self._checked(*found, scope, receive, send)
        except UserError as error:
            await refusal_response(error)(scope, receive, send)

    async def _checked(
        self, route: AllowedRoute, parameters: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        owner = actor.current().name
        match route.kind:
            case RouteKind.PLAIN:
                await self._app(scope, receive, send)
            case RouteKind.EVENTS:
                hashes = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
                key = session_key(owner, hashes[0] if len(hashes) == 1 else None)
                self._require_results(key)
                scope = {**scope, "query_string": urlencode({"session_hash": key}).encode()}
                await self._app(scope, receive, send)
            case RouteKind.RESULT:
                self._require_results(self._calls.results(parameters["event_id"], owner))
                await self._app(scope, receive, send)
            case _:
                await self._call(route, parameters, owner, scope, receive, send)

    def _require_results(self, key: str) -> None:
        if not self._sessions.has_results(key):
            raise NotFound(message("no_results"))

    async def _call(
        self, route: AllowedRoute, parameters: dict[str, Any], owner: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = Headers(scope=scope)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            await error_response(415, "unsupported_media_type", message("body_json"))(scope, receive, send)
            return
        most = self._list_bytes if actor.Scope.SUBMIT in actor.current().scopes else MOST_BYTES
        sent = await read_body(receive, headers, most)
        if sent is None:
            text = message("body_size", most=most)
            await error_response(413, "content_too_large", text)(scope, receive, send)
            return
        body, encoded = await anyio.to_thread.run_sync(self._rewritten, route.kind, sent, owner)
        index = body.get("fn_index") if route.kind is RouteKind.CALL else None
        is_call = route.kind in (RouteKind.CALL, RouteKind.CALL_BY_NAME)
        if is_call and not self._sessions.has_endpoint(parameters.get("api_name", ""), index):
            raise NotFound(message("no_endpoint"))

        async def started(event_id: str) -> None:
            session = body.get("session_hash") if route.kind is RouteKind.CALL else None
            for key in self._calls.started(event_id, session, owner):
                await self._sessions.forget(key)

        replaced = (b"content-length", b"content-encoding", b"transfer-encoding", b"accept-encoding")
        others = [each for each in scope["headers"] if each[0] not in replaced]
        scope = {**scope, "headers": [*others, (b"content-length", str(len(encoded)).encode())]}
        if route.starts:
            await self._app(scope, sending(encoded, receive), Reply(send, started))
        else:
            await self._while_connected(scope, encoded, receive, send)

    async def _while_connected(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """A call that responds when it is done; cancelled if its caller disconnects."""
        with anyio.CancelScope() as call:
            watching = asyncio.create_task(cancel_when_gone(receive, call))
            try:
                await self._app(scope, sending(body, receive), send)
            finally:
                watching.cancel()

    def _rewritten(self, kind: RouteKind, sent: bytes, owner: str) -> tuple[dict[str, Any], bytes]:
        body = self._calls.body(kind, sent, owner)
        return body, json.dumps(body).encode()


class Reply:
    """Forwards a response, and reports the id of the event that it names."""

    def __init__(self, send: Send, started: Any) -> None:
        self._send = send
        self._started = started
        self._ok = False
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._ok = message["status"] == 200
        elif message["type"] == "http.response.body" and self._ok and len(self._body) < REPLY_BYTES:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._started(json.loads(self._body)["event_id"])
        await self._send(message)


async def read_body(receive: Receive, headers: Headers, most: int) -> bytes | None:
    """The body of a request; None if it exceeds ``most`` bytes, judged by its declared length or while reading."""
    length = headers.get("content-length", "0")
    if not length.isdigit() or len(length) > 18 or int(length) > most:
        return None
    parts, got, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise InvalidParams("body", message("must_be_whole"))
        parts.append(event.get("body", b""))
        got += len(parts[-1])
        if got > most:
            return None
        more = event.get("more_body", False)
    return b"".join(parts)


async def cancel_when_gone(receive: Receive, call: anyio.CancelScope) -> None:
    """Cancel a call, whose body has been read, when the caller disconnects."""
    while (await receive())["type"] != "http.disconnect":
        continue
    call.cancel()


def sending(body: bytes, receive: Receive) -> Receive:
    """A stream that yields this body, then the rest of the caller's stream."""
    sent = False

    async def receive_body() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


def refusal_response(error: UserError) -> JSONResponse:
    """404 or 400, the only errors that Gradio's clients can read; ``detail`` is the field that they show."""
    content = {
        **error_responses.error_body(error.code, error.message, error.problem),
        "detail": error.message,
    }
    return JSONResponse(content, 404 if isinstance(error, NotFound) else 400, headers=NOT_CACHED)
