"""Supervision of long requests: event streams, long polls, downloads and uploads.

A request is ended soon after its caller would no longer be admitted as the same account, because the token or session
was revoked, the account deleted, or its role changed. Idle event streams get comments, so that proxies and clients keep
them open; not those of Gradio, which have their own heartbeats and whose Python client rejects comments.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.messages import message
from diffusion_local.web.authentication import CHALLENGE, STILL_KEY
from diffusion_local.web.error_responses import error_response

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
RECHECK_SECONDS = 10.0
GRADIO = "/gradio_api/"


class LongLived:
    """ASGI middleware, inside Access, whose decision it repeats every ``recheck`` seconds."""

    def __init__(self, app: ASGIApp, heartbeat: float = HEARTBEAT_SECONDS, recheck: float = RECHECK_SECONDS) -> None:
        self._app = app
        self._heartbeat = heartbeat
        self._recheck = recheck

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = Answer(send, self._heartbeat if not scope["path"].startswith(GRADIO) else 0.0)
        with anyio.CancelScope() as running:
            timer = Every(self._recheck, lambda: self._check(scope[STILL_KEY], running, answer))
            try:
                await self._app(scope, receive, answer.send)
            finally:
                timer.stop()
                answer.stop()
        if answer.cut and not answer.ended:  # even if the application ignored its cancellation
            log.info("%s %s was ended: its caller has lost the permission", scope["method"], scope["path"])
            await answer.cut_off(scope, receive)

    @staticmethod
    async def _check(still: Callable[[], Awaitable[bool]], running: anyio.CancelScope, answer: "Answer") -> None:
        if not await still():
            answer.cut = True
            running.cancel()


class Every:
    """Calls a coroutine function every ``seconds`` until stopped. Short requests cost only a timer, no task."""

    def __init__(self, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
        self._seconds = seconds
        self._call = call
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._begin)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._call()
            except Exception:
                log.exception("the supervision of a long request failed")
            await asyncio.sleep(self._seconds)


class Answer:
    """A response while it is sent. An event stream gets a comment after ``heartbeat`` seconds of silence (0: never).

    Once ``cut`` is set, the application's messages are dropped, because some applications answer their cancellation.
    """

    def __init__(self, send: Send, heartbeat: float) -> None:
        self._send = send
        self._heartbeat = heartbeat
        self._lock = asyncio.Lock()  # a comment and the application's messages must not interleave
        self._timer: Every | None = None
        self.cut = self.ended = False
        self._started = self._is_stream = False
        self._between = True  # whether the last event is complete, so that a comment may follow
        self._sent_at = 0.0

    async def send(self, message: Message) -> None:
        async with self._lock:
            if self.cut:
                return
            if message["type"] == "http.response.start":
                self._started = True
                self._is_stream = (
                    Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
                )
                if self._is_stream and self._heartbeat:
                    self._timer = Every(self._heartbeat / 10, self._beat)
            elif message["type"] == "http.response.body":
                self.ended = not message.get("more_body")
                if body := message.get("body"):
                    self._between = body.endswith(b"\n\n")
            self._sent_at = time.monotonic()
            await self._send(message)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()

    async def cut_off(self, scope: Scope, receive: Receive) -> None:
        """End a response in progress: an event stream properly, another so that the client notices the truncation."""
        if not self._started:
            text = message("access_ended")
            await error_response(401, "unauthorized", text, CHALLENGE)(scope, receive, self._send)
        elif self._is_stream and not self.ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self) -> None:
        async with self._lock:
            if self._between and not self.ended and time.monotonic() - self._sent_at >= 0.9 * self._heartbeat:
                self._sent_at = time.monotonic()
                await self._send({"type": "http.response.body", "body": b": nothing new\n\n", "more_body": True})
