"""uvicorn's HTTP/1.1 protocol with time-outs for clients that send or read too slowly, or not at all."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from diffusion_local.web.connections import Connections

HEADER_SECONDS = 15.0  # from the connection, or from the first byte of a later request, to the end of the header
BODY_SECONDS = 20.0  # period in which a body must end or arrive at SLOWEST
SLOWEST = 2000  # bytes per second
REST_SECONDS = 15.0  # for the rest of a body after the response: many clients read that only when they have sent all
UNREAD_SECONDS = 120.0  # within which a client must read some of its response


class Protocol(H11Protocol):
    """The protocol of one connection, which reports to ``connections`` whether it is busy."""

    def __init__(self, connections: Connections, **more: Any) -> None:
        super().__init__(**more)
        self._connections = connections
        self._number = -1
        self._phase = ""
        self._received = 0  # bytes in this phase; of a body, in the current period
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._number = transport.get_extra_info("socket").fileno()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves this timer armed after an error
        self._enter("")
        self._read()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self.transport.get_protocol() is self:
            self._follow()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Stop the time-outs: the WebSocket protocol takes the connection over and detects dead peers by pings."""
        super().handle_websocket_upgrade(event)
        self._enter("")
        self._connections.mark(self._number, busy=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _follow(self) -> None:
        """Arm the time-out that applies to the current state."""
        if self.transport.is_closing():
            self._enter("")
            return
        answered = self.cycle is None or self.cycle.response_complete
        sending = self.conn.their_state is h11.SEND_BODY
        self._connections.mark(self._number, busy=not answered and not sending)
        if sending:
            self._enter("rest" if answered else "body")
        elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            self._enter("header")
        else:
            self._enter("")

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            return
        self._phase, self._received = phase, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if phase:
            seconds = {"header": HEADER_SECONDS, "body": BODY_SECONDS, "rest": REST_SECONDS}[phase]
            self._timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._phase == "body":
            # Earlier speed does not count: a client that then slows down could keep its body in memory for hours.
            goes_on = self._received >= BODY_SECONDS * SLOWEST or self.flow.read_paused
            self._received = 0
            if goes_on:
                self._timer = self.loop.call_later(BODY_SECONDS, self._late)
                return
        self.transport.close()
