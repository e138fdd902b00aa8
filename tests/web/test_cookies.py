"""Cookies: read in linear time, quoted ones left out before anything else reads them."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from diffusion_local.web.authentication import Cookies, cookie_value, plain


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("a=1", "1"),
        ("b=2; a=1; c=3", "1"),
        ("a = 1 ;b", "1"),
        ("a=x=y", "x=y"),
        ("aa=2", ""),
        ('a="1"', ""),
        ("a=1\\2", ""),
        ("", ""),
        (";;=;", ""),
    ],
)
def test_a_cookie_is_read(header: str, value: str) -> None:
    assert cookie_value(header, "a") == value


def test_quoted_cookies_are_left_out() -> None:
    assert plain(b'a=1; z="x"; b=2; y=\\\\') == b"a=1; b=2"


def test_what_is_inside_never_sees_a_quoted_cookie() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    scope = {"type": "http", "headers": [(b"host", b"x"), (b"cookie", b'a=1; z="' + b"\\" * 30_000 + b'"')]}
    with ThreadPoolExecutor(1) as other:  # browser tests leave an event loop running in this thread
        other.submit(lambda: asyncio.run(Cookies(app)(scope, None, None))).result()  # type: ignore[arg-type]
    assert seen == [[(b"host", b"x"), (b"cookie", b"a=1")]]


def test_a_header_of_backslashes_costs_nothing(client: Any) -> None:
    """Unquoted by ``http.cookies``, each of these took seconds of the event loop."""
    attack = {"Cookie": 'z="' + "\\" * 31_000 + '"'}
    before = time.process_time()
    for _ in range(8):
        assert client.get("/healthz", headers=attack).status_code == 200
        client.post("/login", headers=attack, data={"username": "a", "password": "b"})
    assert time.process_time() - before < 8  # it was some hundred
