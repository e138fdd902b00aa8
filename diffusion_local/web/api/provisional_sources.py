"""Withdraws the source pictures that came with a request if the response is an error."""

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.gallery.sources import Sources, provisional

#: Calls that are answered before they are carried out, or whose refusal has a good status; they withdraw on their own.
OTHERWISE = ("/gradio_api", "/mcp")


class ProvisionalSources:
    """ASGI middleware: a request whose response is an error leaves no source pictures behind."""

    def __init__(self, app: ASGIApp, sources: Sources) -> None:
        self._app = app
        self._sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD") or scope["path"].startswith(OTHERWISE):
            await self._app(scope, receive, send)
            return

        async def send_checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await anyio.to_thread.run_sync(added.withdraw)
            await send(message)

        with provisional(self._sources) as added:
            await self._app(scope, receive, send_checked)
