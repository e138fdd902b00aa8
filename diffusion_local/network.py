"""This machine in its network: the addresses under which others reach it, and its announcement by mDNS."""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import ifaddr

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

SERVICE = "_http._tcp.local."


def addresses() -> list[str]:
    """Addresses of this machine that others in the network can use: IPv4 first, no loopback and no link-local ones."""
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0])
            if not (address.is_loopback or address.is_link_local or address.is_multicast):
                found.append(str(address))
    return sorted(dict.fromkeys(found), key=lambda text: (":" in text, text))


def urls(scheme: str, host: str, port: int, root: str = "") -> list[str]:
    """Where others reach a server that listens on ``host``."""
    if host not in ("0.0.0.0", "::", ""):
        return [f"{scheme}://{bracketed(host)}:{port}{root}"]
    reached = [each for each in addresses() if host != "0.0.0.0" or ":" not in each]
    return [f"{scheme}://{bracketed(each)}:{port}{root}" for each in reached]


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def announced(port: int, root: str = "", wanted: bool = True) -> Iterator[None]:
    """While inside, the server can be found by mDNS as ``diffusion-local on <host>``. A failure is only logged."""
    if not wanted:
        yield
        return
    from zeroconf import ServiceInfo, Zeroconf

    own = socket.gethostname().split(".")[0]
    service = ServiceInfo(
        SERVICE,
        f"diffusion-local on {own}.{SERVICE}",
        parsed_addresses=addresses(),
        port=port,
        properties={"path": f"{root}/"},
        server=f"{own}.local.",
    )
    zeroconf = None
    try:
        zeroconf = Zeroconf()
        zeroconf.register_service(service, allow_name_change=True)
    except Exception as error:  # no network, no multicast: the server works all the same
        log.warning("cannot be announced by mDNS: %s", error)
    try:
        yield
    finally:
        if zeroconf is not None:
            zeroconf.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def local_host(host: str) -> str:
    """Where this machine reaches a server that listens on ``host``."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    return "::1" if host == "::" else host.strip("[]")


def url(settings: Settings) -> str:
    return (
        f"{scheme(settings)}://{bracketed(local_host(settings.host))}:{settings.port}{settings.root_path.rstrip('/')}"
    )


def others(settings: Settings) -> list[str]:
    """Where other machines reach it; empty for a server of this machine only."""
    if is_loopback(settings.host):
        return []
    return urls(scheme(settings), settings.host, settings.port, settings.root_path.rstrip("/"))


def scheme(settings: Settings) -> str:
    return "https" if settings.tls_cert else "http"


def check_tls(settings: Settings) -> None:
    """Raises InvalidParams if certificate and key cannot be used, before a child dies of it again and again."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidParams("tls_cert", message("tls_together"))
    if settings.tls_cert:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise InvalidParams("tls_cert", message("tls_unusable", error=error)) from None
