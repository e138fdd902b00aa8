"""A short way for the calls of workers on other machines, which are most of the requests.

The first request of a worker passes all middleware and the router. If it is admitted, requests with the same headers
from the same address are answered here for ADMITTED_SECONDS, because every check depends on those alone. Whatever is
unusual goes the long way: large or unreadable bodies, and long polls, which must end when their caller loses access.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, MutableMapping
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.actor import Actor
from diffusion_local.dispatch import wire
from diffusion_local.errors import InvalidParams
from diffusion_local.system import logs
from diffusion_local.web.requests import REQUEST_ID_HEADER, RequestMetrics

ADMITTED_SECONDS = 2.0  # for which a token that another process revoked is still accepted
MOST_ADMITTED = 1000
MOST_BYTES = 16 * 1024 * 1024  # of a body that is answered here
MOST_HELD = 4 * MOST_BYTES  # bytes of bodies in memory at once
WORKER_PATH = "/api/v1/worker"
LENGTH, CONTENT_TYPE = b"content-length", (b"content-type", wire.WIRE_MEDIA_TYPE.encode())
#: Key in the scope of the function that the route calls with the actor that it admitted.
ADMISSION = "diffusion_local.admission"


class Calls(Protocol):
    """See ``api.http.workers.Calls``."""

    def answer(self, who: Actor, head: dict[str, Any], name: str, arguments: dict[str, Any]) -> Awaitable[bytes]: ...


def admit(scope: MutableMapping[str, Any], who: Actor) -> None:
    """Record that the route lets ``who`` make calls."""
    if ADMISSION in scope:
        scope[ADMISSION](who)


class KnownWorkers:
    """ASGI middleware, the outermost."""

    def __init__(
        self,
        app: ASGIApp,
        calls: Calls,
        metrics: RequestMetrics,
        changes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``changes``: a number that changes whenever this process changes somebody's rights."""
        self._app = app
        self._changes = changes
        self._calls = calls
        self._metrics = metrics
        self._clock = clock
        self._admitted: OrderedDict[Hashable, tuple[Actor, float, int]] = OrderedDict()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(WORKER_PATH):
            await self._app(scope, receive, send)
            return
        key, size = identity(scope)
        if self._known(key) is None or size is None or size > MOST_BYTES or self._held + size > MOST_HELD:
            await self._introduce(key, scope, receive, send)
            return
        began = time.perf_counter()
        self._held += size
        try:
            body = await read_body(receive)
            who = self._known(key)  # again, because the body may have taken long
            if body is None:
                return
            call = parse(body)
            if who is None or call is None or call[1] == "wait":
                await self._introduce(key, scope, replay(body, receive), send)
                return
            identifier = secrets.token_hex(8)
            with logs.serving(identifier):
                answer = await self._calls.answer(who, *call)
        finally:
            self._held -= size
        headers = [CONTENT_TYPE, (LENGTH, b"%d" % len(answer)), (REQUEST_ID_HEADER.encode(), identifier.encode())]
        self._metrics.note(scope["path"], "POST", 200, time.perf_counter() - began)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _known(self, key: Hashable) -> Actor | None:
        who, at, changes = self._admitted.get(key, (None, 0.0, 0))
        return who if self._clock() - at < ADMITTED_SECONDS and changes == self._changes() else None

    async def _introduce(self, key: Hashable, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass all checks; the route calls ``ADMISSION`` if it admits it."""

        began, changes = self._clock(), self._changes()

        def note(who: Actor) -> None:
            self._admitted[key] = who, began, changes
            self._admitted.move_to_end(key)
            if len(self._admitted) > MOST_ADMITTED:
                self._admitted.popitem(last=False)

        await self._app({**scope, ADMISSION: note}, receive, send)


def identity(scope: Scope) -> tuple[Hashable, int | None]:
    """(every attribute on which admission depends, length of the body or None)."""
    headers, size = [], None
    for header in scope["headers"]:
        if header[0] == LENGTH:
            size = int(header[1]) if header[1].isdigit() else None
        else:
            headers.append(header)
    client = (scope.get("client") or ("",))[0]
    return (client, scope["scheme"], scope["path"], scope["query_string"], *headers), size


async def read_body(receive: Receive) -> bytes | None:
    """The body, or None if the client has disconnected."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a body that was read already, then what follows."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def parse(body: bytes) -> tuple[dict[str, Any], str, dict[str, Any]] | None:
    """(head, call, arguments); None for a body that the route must refuse by name."""
    try:
        head, blobs = wire.unpack(body)
        return head, *wire.parse_arguments(head, blobs)
    except (wire.UnreadableMessage, InvalidParams):
        return None
