"""Checks of the Host and Origin headers, and the security headers of responses.

Other web sites in a user's browser must not control this server. Their requests carry their own Origin; a site whose
name resolves to this machine (DNS rebinding) sends that name as Host.
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.web.error_responses import error_response

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
#: A Host header: a DNS name or an IPv4 address, or an IPv6 address in brackets; then, optionally, a port.
HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._-]+))(?::[0-9]{0,5})?")
WILDCARD_ADDRESSES = {"0.0.0.0", "::", ""}
#: gradio's page needs inline scripts and `Function`, but may not load from other hosts or send to them.
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}


def host_rule(settings: Settings) -> Callable[[str], bool]:
    """A function that tells whether a host name (lower case, without port) belongs to this server.

    A server that listens on all addresses also accepts any IP address, because DNS rebinding needs a name.
    """
    bound = settings.host.strip("[]").lower()
    names = {"localhost", bound, *(name.strip().lower() for name in settings.allowed_hosts.split(",") if name.strip())}
    everywhere = bound in WILDCARD_ADDRESSES
    if everywhere:
        own = socket.gethostname().lower()
        names |= {own, f"{own.split('.')[0]}.local"}

    def allowed(name: str) -> bool:
        if name in names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return everywhere or address.is_loopback

    return allowed


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without port and brackets; empty if the header is malformed.

    Only ``name``, ``name:port``, ``[v6]`` and ``[v6]:port`` are accepted. A URL parser would also find a name in
    ``user@name`` or ``name#other``, while other readers of the same header take it for a different host.
    """
    found = HOST.fullmatch(host)
    return (found["v6"] or found["name"]).lower() if found else ""


def same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False


def foreign_page(headers: Headers, host: str) -> str:
    """The origin of a request from another site's page; empty if it is from our own page or not from a browser.

    Browsers send ``Origin`` with every write, and all but old ones send ``Sec-Fetch-Site``; ``Referer`` is the last
    resort. A request with none of them is from a program, or from a browser that does not send our cookie from other
    sites anyway (SameSite).
    """
    origin, fetched, referer = (headers.get(name) for name in ("origin", "sec-fetch-site", "referer"))
    if origin is not None:
        return "" if same_origin(origin, host) else origin or "another site"
    if fetched is not None:
        return "" if fetched in ("same-origin", "none") else "another site"
    return "" if referer is None or same_origin(referer, host) else referer


def allowed_origins(settings: Settings) -> set[str]:
    """Parse the setting ``cors_origins``. Raises InvalidParams if one is not a plain origin; ``*`` is not allowed."""
    origins = {each.strip().rstrip("/").lower() for each in settings.cors_origins.split(",") if each.strip()}
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
            raise InvalidParams("cors_origins", message("origins", got=echo(origin)))
    return origins


class HostCheck:
    """ASGI middleware: refuses foreign hosts (400) and foreign writes (403), and adds the security headers."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._allowed = host_rule(settings)
        self._origins = allowed_origins(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._allowed(host_name(host)):
            name = echo(host_name(host) or host)
            text = message("host_name", name=name)
            await error_response(400, "host_not_allowed", text)(scope, receive, send)
            return
        writes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if origin in self._origins:
            # An allowed page of another site must send a token; it may never use the visitor's session.
            scope = dict(scope) | {"headers": [each for each in scope["headers"] if each[0] != b"cookie"]}
        elif writes and (foreign := foreign_page(headers, host)):
            text = message("foreign_page", page=foreign)
            await error_response(403, "origin_not_allowed", text)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers_out = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers_out.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
