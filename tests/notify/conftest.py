"""A receiver of webhooks on this machine, and settings that allow it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings


@dataclass
class Receiver:
    """Keeps what it was sent; ``answers`` are the statuses of the next answers, after which it is 204."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)
    body: bytes = b""
    hold: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict)

    def bodies(self) -> list[str]:
        return [body for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()
    kept.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            kept.got.append((dict(self.headers), body))
            kept.hold.wait(30)
            self.send_response(kept.answers.pop(0) if kept.answers else 200)
            for name, value in kept.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(kept.body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kept
    kept.hold.set()
    server.shutdown()
    server.server_close()


OpenHouse = Callable[..., Services]


@pytest.fixture
def telling(receiver: Receiver) -> Iterator[OpenHouse]:
    """A house whose settings tell the receiver of everything."""
    opened: list[Services] = []

    def start(**changes: Any) -> Services:
        options = {"webhooks": receiver.url, "webhook_allow_private": "127.0.0.1"} | changes
        opened.append(open_services(replace(Settings.load(engine="fake", port=0), **options)))
        return opened[-1]

    yield start
    for services in opened:
        services.database.close()
