"""Cookies, read in linear time.

``http.cookies`` unquotes values in time that grows with the square of their length on Pythons before 3.11.10
(CVE-2024-7592), and Starlette's ``request.cookies`` does the same. Our own cookies are never quoted, so quoted ones are
taken out of the header before anything else reads it.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


def cookie(header: str, name: str) -> str:
    """The value of a cookie in a ``Cookie`` header (RFC 6265, 4.2.1); empty if there is none, or a quoted one."""
    for pair in header.split(";"):
        found, _, value = pair.partition("=")
        if found.strip() == name:
            plain = value.strip()
            return "" if '"' in plain or "\\" in plain else plain
    return ""


class Cookies:
    """ASGI middleware: leaves quoted cookies out of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and any(name == b"cookie" for name, _ in scope["headers"]):
            headers = [(name, plain(value) if name == b"cookie" else value) for name, value in scope["headers"]]
            scope = dict(scope) | {"headers": headers}
        await self._app(scope, receive, send)


def plain(header: bytes) -> bytes:
    return b";".join(pair for pair in header.split(b";") if b'"' not in pair and b"\\" not in pair)
