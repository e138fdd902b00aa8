"""The watchdog: silence kills, anything else does not, and neither does time in which the watchdog itself slept."""

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.settings import Settings
from diffusion_local.supervisor import watchdog
from diffusion_local.supervisor.watchdog import MAX_FAILURES, MAX_STARTING, Watchdog, answers
from diffusion_local.system import network


class Process:
    killed = 0

    def kill(self) -> None:
        self.killed += 1


class World:
    """What the watchdog sees, and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers = True
        self.process = Process()
        self.dog = Watchdog(lambda: self.answers, clock=lambda: self.now)
        self.dog.watch(self.process)

    def turns(self, count: int, answers: bool, seconds: float = 10.0) -> int:
        """How often the process has been killed after so many turns."""
        self.answers = answers
        for _ in range(count):
            self.now += seconds
            self.dog.poll()
        return self.process.killed


@pytest.fixture
def world() -> World:
    return World()


def test_silence_kills_once(world: World) -> None:
    assert world.turns(1, True) == 0
    assert world.turns(MAX_FAILURES - 1, False) == 0
    assert world.turns(1, False) == 1
    assert world.turns(MAX_FAILURES - 1, False) == 1


def test_an_answer_begins_the_count_anew(world: World) -> None:
    world.turns(1, True)
    for _ in range(10):
        world.turns(MAX_FAILURES - 1, False)
        assert world.turns(1, True) == 0


def test_a_start_takes_its_time_but_not_for_ever(world: World) -> None:
    assert world.turns(20, False) == 0
    assert not world.dog.answered
    assert world.turns(int(MAX_STARTING / 10), False) >= 1


def test_a_new_process_is_given_time_again(world: World) -> None:
    world.turns(1, True)
    world.turns(MAX_FAILURES, False)
    assert world.dog.answered
    world.process = Process()
    world.dog.watch(world.process)
    assert (world.dog.answered, world.dog.healthy_seconds) == (False, 0.0)
    assert world.turns(MAX_FAILURES + 1, False) == 0
    world.turns(1, True)
    world.turns(3, True)
    assert world.dog.healthy_seconds == 30.0


def test_time_that_the_watchdog_slept_through_is_no_silence(world: World) -> None:
    world.turns(1, True)
    for _ in range(5):
        world.turns(MAX_FAILURES - 1, False)
        assert world.turns(1, False, seconds=3600) == 0


def test_an_answer_about_a_process_that_was_replaced_meanwhile_does_not_count(world: World) -> None:
    world.turns(1, True)
    world.turns(MAX_FAILURES - 1, False)
    second = Process()

    def replaces() -> bool:
        world.dog.watch(second)
        return False

    world.dog._answers = replaces
    world.dog.poll()
    assert (world.process.killed, second.killed) == (0, 0)


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/healthz" and self.server.status:  # type: ignore[attr-defined]
                self.send_error(self.server.status)  # type: ignore[attr-defined]

        def log_message(self, *_: Any) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    made.status = 200  # type: ignore[attr-defined]
    yield made
    made.server_close()


def run(server: HTTPServer) -> None:
    threading.Thread(target=server.handle_request, daemon=True).start()


@pytest.mark.parametrize("status", [200, 400, 503, 0])
def test_any_answer_counts_and_a_closed_connection_too(settings: Settings, server: Any, status: int) -> None:
    server.status = status
    run(server)
    assert answers(replace(settings, port=server.server_port))


def test_silence_does_not(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for host in ("127.0.0.1", "0.0.0.0", ""):
            assert not answers(replace(settings, host=host, port=port))
    assert not answers(replace(settings, port=port))


def test_a_certificate_of_another_name_is_no_hindrance(settings: Settings, server: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"
    network.self_signed(certificate, key, [])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    run(server)
    assert answers(replace(settings, port=server.server_port, tls_cert=str(certificate), tls_key=str(key)))


@pytest.mark.parametrize(("host", "asked"), [("::", "::1"), ("[::1]", "::1"), ("", "127.0.0.1"), ("localhost",) * 2])
def test_every_way_to_listen_is_reached(settings: Settings, host: str, asked: str) -> None:
    assert watchdog.connect(replace(settings, host=host)).host == asked
