"""Limits on the number of connections, per address and in total.

Connections are counted on accept, before TLS and HTTP. If an address has too many, its longest idle one (without a
complete request) is closed in favour of the new one; the new one is closed only if all are busy. The same applies to
the total, of which a quarter is reserved for this machine. ``Protocol`` has the time-outs for clients that send or
read too slowly, or not at all.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from diffusion_local.accounts.service import network_of
from diffusion_local.system.network import is_loopback

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 2000
MOST_OF_ADDRESS = 200
OWN_FILES = 100  # descriptors for databases, logs and libraries
MOST_CLOSING = 32
FILES_EACH = 2  # descriptors of a connection: its socket, and the file being sent
#: Errors for lack of descriptors or buffers: despite the limits, another part of the process may use them up.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def raise_file_limit() -> int:
    """Raise the process's soft limit of open files to the hard one. Returns the limit now in force."""
    try:
        import resource
    except ImportError:  # Windows
        return MAX_CONNECTIONS * FILES_EACH + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses more than kern.maxfilesperproc
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MAX_CONNECTIONS * FILES_EACH + OWN_FILES if soft == resource.RLIM_INFINITY else soft


class Connection(socket.socket):
    """An accepted connection, which notifies ``owner`` when it is closed."""

    address = ""  # the network under which it is counted; empty for this machine
    owner: "Connections | None" = None

    def close(self) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.closed(self)
        super().close()


class Connections:
    """All accepted connections of a server. Not thread-safe: only the event loop's thread may use it."""

    def __init__(self, files: int, unlimited: Callable[[str], bool] = lambda _: False) -> None:
        """``files``: maximum number of open files of the process. ``unlimited``: whether an address stands for many
        clients, as that of a proxy does, and so has no limit of its own.
        """
        self.most = max(8, min(MAX_CONNECTIONS, (files - OWN_FILES) // FILES_EACH))
        self.most_of_others = self.most * 3 // 4
        self.most_of_address = min(MOST_OF_ADDRESS, self.most // 4)
        self._unlimited = unlimited
        self._open: dict[int, Connection] = {}  # by descriptor
        self._idle: OrderedDict[int, Connection] = OrderedDict()  # those without a complete request, longest idle first
        self._counts: Counter[str] = Counter()  # by address
        self._closing = 0  # evicted connections whose descriptors are not free yet

    def __len__(self) -> int:
        return len(self._open)

    @property
    def settling(self) -> bool:
        """Whether the event loop must close evicted connections before more are accepted."""
        return self._closing >= MOST_CLOSING

    def admit(self, connection: Connection, host: str) -> bool:
        """Count a new connection if there is room, evicting an idle one if necessary. Returns False to refuse it."""
        address = "" if is_loopback(host) else network_of(host)
        others = len(self) - self._counts[""]
        room = True
        if address and not self._unlimited(host) and self._counts[address] >= self.most_of_address:
            room = self._make_room(lambda each: each.address == address)
        elif address and others >= self.most_of_others:
            room = self._make_room(lambda each: each.address != "")
        elif len(self) >= self.most:
            room = self._make_room(lambda _: True)
        if not room:
            log.warning("a connection of %s was closed: %d are at work", host, len(self))
            return False
        connection.address, connection.owner = address, self
        number = connection.fileno()
        self._open[number] = self._idle[number] = connection
        self._counts[address] += 1
        return True

    def mark(self, number: int, busy: bool) -> None:
        """Record whether a connection, given by its descriptor, has a complete request that is not answered yet."""
        if busy:
            self._idle.pop(number, None)
        elif number in self._open and number not in self._idle:
            self._idle[number] = self._open[number]

    def closed(self, connection: Connection) -> None:
        if self._open.get(connection.fileno()) is connection:
            self._forget(connection)
        else:
            self._closing -= 1

    def _make_room(self, fits: Callable[[Connection], bool]) -> bool:
        longest = next((each for each in self._idle.values() if fits(each)), None)
        if longest is None:
            return False
        self._forget(longest)
        self._closing += 1
        with contextlib.suppress(OSError):
            longest.shutdown(socket.SHUT_RDWR)  # the event loop then sees the end of the stream and closes the socket
        return True

    def _forget(self, connection: Connection) -> None:
        del self._open[connection.fileno()]
        self._idle.pop(connection.fileno(), None)
        self._counts[connection.address] -= 1
        if not self._counts[connection.address]:
            del self._counts[connection.address]


class Listener(socket.socket):
    """A listening socket that accepts only as many connections as the limits allow.

    ``spare`` is a descriptor to close when there is no other, see `_turn_away`.
    """

    connections: Connections
    spare = -1

    def accept(self) -> tuple[socket.socket, object]:
        """Accept a connection within the limits.

        Raises ConnectionAbortedError if it was closed at once, and BlockingIOError if evicted ones must be closed
        first; asyncio then does other work and tries again.
        """
        if self.connections.settling:
            raise BlockingIOError
        try:
            number, peer = self._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._turn_away()
                raise ConnectionAbortedError from None
            raise
        connection = Connection(self.family, self.type, self.proto, fileno=number)
        if self.connections.admit(connection, peer[0]):
            return connection, peer
        connection.close()
        raise ConnectionAbortedError

    def _turn_away(self) -> None:
        """Close a waiting connection when no descriptor is free, using the spare one to accept it.

        Otherwise it would stay in the backlog and wake the event loop endlessly.
        """
        log.warning("the limit of open files is reached: new connections are closed")
        if self.spare >= 0:
            os.close(self.spare)
            with contextlib.suppress(OSError):
                number, _ = self._accept()  # type: ignore[attr-defined]
                os.close(number)
            with contextlib.suppress(OSError):
                self.spare = os.open(os.devnull, os.O_RDONLY)


def listen(host: str, port: int, connections: Connections) -> list[socket.socket]:
    """Open listening sockets on every address of ``host``, as asyncio's ``create_server`` does. Raises OSError.

    On Windows the limits have no effect, because asyncio's event loop there does not call ``accept``.
    """
    listeners: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in dict.fromkeys(found):
        listener = Listener(family, kind, protocol)
        listener.connections = connections
        listeners.append(listener)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.spare = os.open(os.devnull, os.O_RDONLY)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except OSError:
            for each in listeners:
                each.close()
            raise
    return listeners


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
