"""Transports of the MCP server: ``POST /mcp`` (streamable HTTP), and stdio.

This module is apart from ``server``, which imports the SDK (20 MB). HTTP is served without sessions: each request is
independent, carries its own credentials, and works after a restart of the server. There is no stream outside of a
request, so GET returns 405, as the protocol allows. Host, Origin, credentials and body size are checked before a
request arrives here.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.actor import NOBODY, acting
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.calls import root_of
from diffusion_local.web.api.request_limits import larger
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.authentication import ACTOR_KEY

PATH = "/mcp"


def add(app: FastAPI, studio: Studio, watch: Watch, settings: Settings) -> None:
    app.router.routes.append(Route(PATH, Endpoint(studio, watch, settings)))


class Endpoint:
    """An ASGI application; the server is created, and the SDK imported, at the first request."""

    def __init__(self, studio: Studio, watch: Watch, settings: Settings) -> None:
        self._studio = studio
        self._watch = watch
        self._home = str(settings.home)
        self._most_bytes = larger(settings)[PATH]
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise HTTPException(405, "Use POST here.", {"Allow": "POST"})
        server = await anyio.to_thread.run_sync(self._server)
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        manager = StreamableHTTPSessionManager(server.sdk, stateless=True, max_request_body_size=self._most_bytes)
        async with manager.run():
            await manager.handle_request(scope, receive, send)

    def _server(self) -> Any:
        with self._lock:
            return self._cached_server

    @functools.cached_property
    def _cached_server(self) -> Any:
        from diffusion_local.web.api.mcp.server import McpServer

        logging.getLogger("mcp").setLevel(logging.WARNING)  # it logs each request
        return McpServer(self._studio, of_request, lambda: self._watch.stopping(), home=self._home)


@contextlib.contextmanager
def of_request(request: Request | None) -> Iterator[None]:
    """Run a call on behalf of its HTTP request's caller, with absolute URLs in the response. The SDK runs handlers in
    its own tasks, which lack the request's context.
    """
    who = NOBODY if request is None else request.scope.get(ACTOR_KEY, NOBODY)
    with acting(who), serializers.with_root(root_of(request) if request is not None else ""):
        yield


@contextlib.contextmanager
def of_process(root: str, request: object = None) -> Iterator[None]:
    """Run a call as the process's own actor; ``root``: the studio's URL, if it has one."""
    with serializers.with_root(root):
        yield


def run_stdio(studio: Any, root: str = "") -> None:
    """Serve on standard input and output until the input ends. A studio with a ``root`` is on another machine."""
    from mcp.server.stdio import stdio_server

    from diffusion_local.web.api.mcp.server import McpServer

    never: Callable[[], bool] = lambda: False  # noqa: E731
    server = McpServer(studio, functools.partial(of_process, root), never, files=not root).sdk

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(serve)
