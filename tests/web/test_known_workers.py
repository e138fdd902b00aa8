"""Calls of workers take the short way only while the same headers were admitted a moment ago."""

import asyncio
from typing import Any

import pytest
from prometheus_client import generate_latest

from diffusion_local.actor import LOCAL, Actor
from diffusion_local.dispatch import wire
from diffusion_local.web import known_workers
from diffusion_local.web.known_workers import ADMITTED_SECONDS, KnownWorkers, admit
from diffusion_local.web.requests import RequestMetrics

HEADERS = {"host": "studio", "authorization": "Bearer secret"}
PATH = "/api/v1/worker"


class Ways:
    """The middleware between a client and an application that admits everyone while ``admits``."""

    def __init__(self) -> None:
        self.long: list[bytes] = []
        self.short: list[str] = []
        self.admits, self.now, self.changes = True, 0.0, 0
        self.metrics = RequestMetrics()
        self.app = KnownWorkers(self._route, self, self.metrics, lambda: self.changes, lambda: self.now)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.long.append(body)
        if self.admits:
            admit(scope, LOCAL)

    async def answer(self, who: Actor, head: dict[str, Any], name: str, arguments: dict[str, Any]) -> bytes:
        assert who == LOCAL
        self.short.append(name)
        return wire.pack({"answer": None}, [])

    def post(
        self, body: bytes = wire.request("ready", (), {}), path: str = PATH, client: str = "10.0.0.7", **headers: str
    ) -> list[dict[str, Any]]:
        """Send a body in two pieces; returns the messages of the short way's answer."""
        found: list[dict[str, Any]] = []
        pieces = [body[:3], body[3:]]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            found.append(message)

        lines = [(name.encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]
        lines.append((b"content-length", str(len(body)).encode()))
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "scheme": "http"}
        asyncio.run(self.app(scope | {"headers": lines, "client": (client, 4711)}, receive, send))
        return found


def test_after_an_admitted_call_the_next_ones_take_the_short_way() -> None:
    ways = Ways()
    assert ways.post() == []
    assert ways.short == []
    start, content = ways.post()
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"] == str(len(content["body"])).encode()
    assert wire.parse_response("register", content["body"]) is None
    assert len(ways.long) == 1
    assert ways.short == ["ready"]
    assert b'http_requests_total{api="http",method="POST",status="200"} 1.0' in generate_latest(ways.metrics.registry)


@pytest.mark.parametrize(
    "other",
    [
        {"authorization": "Bearer another"},
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"x-forwarded-for": "10.0.0.1"},
        {"client": "10.0.0.8"},
        {"path": f"/root{PATH}"},
    ],
)
def test_other_headers_addresses_and_paths_are_checked_anew(other: dict[str, Any]) -> None:
    ways = Ways()
    ways.post()
    ways.admits = False
    for _ in range(2):
        ways.post(**other)
    assert len(ways.long) == 3
    assert ways.short == []


def test_an_admission_ends_with_time_and_with_every_change_of_rights() -> None:
    ways = Ways()
    ways.post()
    ways.now += ADMITTED_SECONDS
    ways.post()
    assert len(ways.long) == 2
    ways.changes += 1
    ways.admits = False
    for _ in range(2):
        ways.post()
    assert len(ways.long) == 4
    assert ways.short == []


@pytest.mark.parametrize("body", [b"no message", wire.request("wait", (1.0,), {}), b"x" * 200])
def test_long_polls_and_what_is_unreadable_or_large_go_the_long_way_whole(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(known_workers, "MOST_BYTES", 150)
    ways = Ways()
    ways.post()
    ways.post(body)
    assert ways.long[1] == body
    assert ways.short == []


def test_other_requests_are_passed_on() -> None:
    ways = Ways()
    ways.post(path="/api/v1/jobs")
    ways.post(path="/api/v1/jobs")
    assert len(ways.long) == 2


def test_bodies_in_memory_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_workers, "MOST_HELD", 10)
    ways = Ways()
    ways.post()
    ways.post()
    assert len(ways.long) == 2
    assert ways.short == []
