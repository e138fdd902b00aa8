"""Limits on the number of connections, per address and in total.

Connections are counted on accept, before TLS and HTTP. If an address has too many, its longest idle one (without a
complete request) is closed in favour of the new one; the new one is closed only if all are busy. The same applies to
the total, of which a quarter is reserved for this machine. ``protocol`` has the time-outs.
"""

import contextlib
import errno
import logging
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable

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
