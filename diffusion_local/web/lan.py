"""The address at which other devices on the network reach this server, and its QR code."""

import io
import socket

import segno

from diffusion_local.settings import Settings
from diffusion_local.web.host_check import WILDCARD_ADDRESSES

#: A documentation address (RFC 5737). Nothing is sent to it, but the route to it reveals our address on the network.
ELSEWHERE = ("192.0.2.1", 9)


def address(settings: Settings) -> str:
    """The URL for devices on the same network; empty if the server listens on loopback only, or there is no network."""
    bound = settings.host.strip("[]")
    host = own_address() if bound in WILDCARD_ADDRESSES else bound
    if not host or host == "localhost" or host.startswith("127.") or host == "::1":
        return ""
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
            return str(probe.getsockname()[0])
        except OSError:  # no network
            return ""


def qr(url: str) -> str:
    """A QR code as an inline SVG that fills the width of its container."""
    out = io.BytesIO()
    segno.make(url, error="m").save(out, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=0, dark="#1c1917")
    return out.getvalue().decode()
