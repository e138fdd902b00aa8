"""Connections: floods and slow callers cost themselves only, and fill no log. Large bodies cost no memory."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from diffusion_local.settings import Settings
from diffusion_local.web import connection_limits as module
from diffusion_local.web.connection_limits import Connection, Connections, Protocol, listen
from tests.support import eventually
from tests.web.test_process import web_process

pytestmark = pytest.mark.skipif(os.name == "nt", reason="asyncio accepts connections in another way there")

FILES = 400  # that the process may open
FLOOD = FILES + 80
MOST_LOG = 20_000  # bytes
MOST_GROWTH = 8_000_000  # bytes of memory


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path]]:
    """A web process that may open FILES, its address and its home."""
    folder = tmp_path_factory.mktemp("web")
    settings = Settings.load(environ={}, home=folder / "home", engine="fake")
    with web_process(settings, folder, FILES) as (child, url):
        yield child, url, settings.home


def place(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


@contextlib.contextmanager
def flood(url: str, count: int, first: bytes = b"", source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.create_connection(place(url), timeout=20, source_address=(source, 0))
            held.append(each)
            with contextlib.suppress(OSError):
                each.sendall(first)
        yield held
    finally:
        for each in held:
            each.close()


def healthy(url: str) -> bool:
    return httpx.get(f"{url}/healthz", timeout=10).status_code == 200


def log_of(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "logs").glob("web.log*"))


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        b"POST /look HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["silent", "half a header", "half a body"],
)
def test_a_flood_of_idle_connections_stops_nobody(web: Any, first: bytes) -> None:
    child, url, home = web
    with flood(url, FLOOD, first, "127.0.0.1"):
        for _ in range(5):
            assert healthy(url)
        assert psutil.Process(child.pid).num_fds() < FILES
    assert healthy(url)
    assert log_of(home) < MOST_LOG


def test_ten_tabs_with_streams_work_during_a_flood(web: Any) -> None:
    _, url, _ = web
    with contextlib.ExitStack() as stack:
        tabs = [stack.enter_context(httpx.stream("GET", f"{url}/api/v1/queue/stream", timeout=30)) for _ in range(10)]
        lines = [tab.iter_lines() for tab in tabs]
        stack.enter_context(flood(url, FLOOD))
        assert all(next(each) == "retry: 2000" for each in lines)
        assert healthy(url)


def chunked(url: str, path: str, megabytes: int) -> str:
    """Sends a body in chunks whatever is answered; the status line of the answer."""
    with socket.create_connection(place(url), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(megabytes):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        return connection.recv(100).split(b"\r\n")[0].decode()


@pytest.mark.parametrize(("path", "megabytes"), [("/look", 60), ("/gradio_api/run/job", 60), ("/nowhere", 30)])
def test_endless_bodies_are_answered_and_cost_no_memory(web: Any, path: str, megabytes: int) -> None:
    child, url, _ = web
    assert healthy(url)
    me = psutil.Process(child.pid)
    chunked(url, path, 1)
    before, most, done = me.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], me.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert chunked(url, path, megabytes) == "HTTP/1.1 411 Length Required"
        answer = httpx.post(f"{url}{path}", content=b" " * 30_000_000, timeout=60)
    finally:
        done.set()
        watcher.join()
    assert answer.status_code == 413
    assert most[0] - before < MOST_GROWTH


# -- time-outs, in this process ----------------------------------------------------------------------------------------


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Connections]]:
    """A server with short time-outs, and who is connected to it."""
    for name in ("HEADER_SECONDS", "BODY_SECONDS", "REST_SECONDS", "UNREAD_SECONDS"):
        monkeypatch.setattr(module, name, 0.3)
    connections = Connections(200)
    [listener] = listen("127.0.0.1", 0, connections)
    http: Any = partial(Protocol, connections)
    config = uvicorn.Config(application, loop="asyncio", http=http, timeout_keep_alive=1, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    server.should_exit = True
    thread.join(10)


def ends(connection: socket.socket) -> bytes:
    """What comes until the server closes; fails if it does not."""
    connection.settimeout(20)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(4096):
            found += piece
    return found


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12"],
)
def test_who_sends_no_whole_request_is_let_go(quick: Any, sent: bytes) -> None:
    url, connections = quick
    with socket.create_connection(place(url)) as connection:
        connection.sendall(sent)
        assert b" 200 " not in ends(connection)
    eventually(lambda: len(connections) == 0)


def test_who_drips_a_header_is_let_go(quick: Any) -> None:
    url, _ = quick
    deadline = time.monotonic() + 20
    with socket.create_connection(place(url)) as connection, contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while time.monotonic() < deadline:
            connection.sendall(b"X-More: 1\r\n")
            threading.Event().wait(0.05)
    assert time.monotonic() < deadline


def test_a_slow_body_that_goes_on_is_taken(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOWEST", 1)
    url, _ = quick

    def drips() -> Iterator[bytes]:
        for _ in range(8):
            threading.Event().wait(0.1)
            yield b"x"

    assert httpx.post(url, content=drips(), headers={"Content-Length": "8"}, timeout=20).text == "x" * 8


def test_an_idle_connection_is_kept_for_the_next_request_and_let_go_later(quick: Any) -> None:
    url, connections = quick
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(url).status_code == 200
        assert len(connections) == 1
        eventually(lambda: len(connections) == 0)
        assert client.get(url).status_code == 200


def test_who_never_reads_its_answer_is_let_go(quick: Any) -> None:
    url, connections = quick
    with socket.create_connection(place(url)) as connection:
        body = b"x" * 20_000_000
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: len(connections) == 0)


# -- the counts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[socket.socket] = []

    def one() -> Connection:
        mine, theirs = socket.socketpair()
        made.extend((mine, theirs))
        found = Connection(mine.family, mine.type, mine.proto, fileno=os.dup(mine.fileno()))
        made.append(found)
        return found

    yield one
    for each in made:
        each.close()


def fill(connections: Connections, make: Any, host: str, count: int) -> list[Connection]:
    """``count`` connections at work."""
    found = [make() for _ in range(count)]
    for each in found:
        assert connections.admit(each, host)
        connections.mark(each.fileno(), busy=True)
    return found


def test_one_address_has_a_limit_and_others_have_room(make: Any) -> None:
    connections = Connections(180)
    assert (connections.most, connections.most_of_others, connections.most_of_address) == (40, 30, 10)
    held = fill(connections, make, "192.0.2.1", 10)
    assert not connections.admit(make(), "192.0.2.1")
    assert not connections.admit(make(), "::ffff:192.0.2.1")
    assert connections.admit(make(), "192.0.2.2")
    connections.mark(held[3].fileno(), busy=False)
    assert connections.admit(make(), "192.0.2.1")  # instead of the idle one
    assert held[3].recv(1) == b""
    assert len(connections) == 11
    for each in held:
        each.close()
    assert len(connections) == 2
    fill(connections, make, "192.0.2.1", 9)


def test_one_person_has_one_network_of_ipv6(make: Any) -> None:
    connections = Connections(180)
    for number in range(10):
        fill(connections, make, f"2001:db8::{number:x}", 1)
    assert not connections.admit(make(), "2001:db8::ffff")
    assert connections.admit(make(), "2001:db8:1::1")


def test_this_machine_has_room_whatever_others_hold(make: Any) -> None:
    connections = Connections(180)
    for number in range(3):
        fill(connections, make, f"192.0.2.{number}", 10)
    assert not connections.admit(make(), "192.0.2.9")
    fill(connections, make, "127.0.0.1", 10)
    assert not connections.admit(make(), "::1")
    assert len(connections) == 40


def test_a_trusted_proxy_has_no_limit_of_its_own(make: Any) -> None:
    connections = Connections(180, lambda address: address == "192.0.2.1")
    fill(connections, make, "192.0.2.1", 30)
    assert not connections.admit(make(), "192.0.2.1")


def test_what_is_given_up_is_closed_before_more_is_accepted(make: Any) -> None:
    connections = Connections(2000)
    held = [make() for _ in range(connections.most_of_address + 32)]
    for each in held:
        assert connections.admit(each, "192.0.2.1")
    assert connections.settling
    held[0].close()
    assert not connections.settling
