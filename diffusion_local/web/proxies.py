"""Reverse proxies: apply the forwarded headers of trusted proxies and remove those of all other senders.

Gradio builds URLs from ``X-Forwarded-Host`` regardless of the sender, and a forged address would evade the limit on
failed sign-ins. So nothing inside this middleware may see an unchecked header.
"""

import ipaddress
from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Headers that proxies, tunnels and CDNs add to a forwarded request, besides all that begin with X-Forwarded.
PASSED_ON = {
    b"cdn-loop",
    b"cf-connecting-ip",
    b"client-ip",
    b"fastly-client-ip",
    b"fly-client-ip",
    b"forwarded",
    b"forwarded-for",
    b"front-end-https",
    b"tailscale-user-login",
    b"true-client-ip",
    b"via",
    b"x-appengine-user-ip",
    b"x-azure-clientip",
    b"x-azure-socketip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-envoy-external-address",
    b"x-original-forwarded-for",
    b"x-real-ip",
    b"x-scheme",
}
#: Key in the scope for the name of such a header, or "". Without accounts, forwarded requests are refused.
PASSED = "diffusion_local.passed_on"
FORWARDED = {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
#: Other headers for the same purpose, which are always removed.
NEVER_TAKEN = {b"forwarded", b"x-real-ip", b"x-forwarded-port", b"x-forwarded-prefix", b"x-original-url"} | {
    b"x-rewrite-url",
    b"x-gradio-server",
    b"x-direct-url",
}


def trusted_networks(text: str) -> list[Network]:
    """Parse a comma-separated list of networks. Raises InvalidParams if one is malformed."""
    try:
        return [ipaddress.ip_network(each.strip(), strict=False) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise InvalidParams("trusted_proxies", message("proxies", error=error)) from None


def trusted(settings: Settings) -> Callable[[str], bool]:
    """A function that tells whether an address belongs to a trusted proxy. Raises InvalidParams for a bad setting."""
    networks = trusted_networks(settings.trusted_proxies)

    def is_trusted(address: str) -> bool:
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(known, "ipv4_mapped", None)
        return any((mapped or known) in network for network in networks)

    return is_trusted


def checked_root(path: str) -> str:
    """Check the path under which a proxy serves us, such as ``/studio``, and remove trailing slashes.

    Raises InvalidParams if it is malformed or has spaces, quotes, angle brackets or other special characters.
    """
    root = path.rstrip("/")
    if root and (not root.startswith("/") or "//" in root or not root.isprintable() or set(root) & set(" ?#\\\"'<>%")):
        raise InvalidParams("root_path", message("root_path", got=echo(path)))
    return root


def passed_on(name: bytes) -> bool:
    """Whether a header, by its lower-case name, shows that a proxy forwarded the request."""
    return name in PASSED_ON or name.startswith(b"x-forwarded")


def origin_of(scope: Scope) -> str:
    """The scheme and host under which the client reaches this server; ``host_check`` refuses foreign hosts."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{host}"


class Proxies:
    """ASGI middleware, outside of all that use the client's address, the host or the scheme."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._is_trusted = trusted(settings)
        self._root = checked_root(settings.root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = self._trusted_scope(scope)
            with serializers.with_root(self._root, origin_of(scope)):
                await self._app(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _trusted_scope(self, scope: Scope) -> Scope:
        client = scope.get("client")
        forwarded = {name: value for name, value in scope["headers"] if name in FORWARDED}
        headers = [(name, value) for name, value in scope["headers"] if name not in FORWARDED | NEVER_TAKEN]
        passed = next((name.decode("latin-1") for name, _ in scope["headers"] if passed_on(name)), "")
        changed = dict(scope) | {PASSED: passed}
        if self._root:
            # A proxy may keep the prefix or strip it; inside this middleware paths are without it.
            changed["root_path"] = self._root
            if scope["path"].startswith(self._root + "/"):
                changed["path"] = scope["path"][len(self._root) :]
        if forwarded and client and self._is_trusted(client[0]):
            hops = [each.strip() for each in forwarded.get(b"x-forwarded-for", b"").decode("latin-1").split(",")]
            nearest = self._nearest([each for each in hops if each])
            if nearest:
                changed["client"] = (nearest, 0)
            if forwarded.get(b"x-forwarded-proto", b"").lower() in (b"https", b"wss"):
                changed["scheme"] = "https" if scope["type"] == "http" else "wss"
            host = forwarded.get(b"x-forwarded-host")
            if host:
                headers = [(b"host", host), *((name, value) for name, value in headers if name != b"host")]
        if changed["scheme"] in ("https", "wss"):
            headers.append((b"x-forwarded-proto", b"https"))  # from which gradio takes the scheme of its URLs
        changed["headers"] = headers
        return changed

    def _nearest(self, hops: Iterable[str]) -> str:
        """The last hop that is not a trusted proxy, or "". The client may have forged all hops before it."""
        for hop in reversed(list(hops)):
            if not self._is_trusted(hop):
                return hop
        return ""
