"""This machine in its network: the addresses under which others reach it, and its announcement by mDNS."""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import ifaddr

from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import Message, message
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


def exposing(settings: Settings) -> str:
    """The setting by which others than this machine's users reach the server, with its value; empty if none does."""
    if not is_loopback(settings.host):
        return f"host = {settings.host}"
    for name in ("trusted_proxies", "root_path"):
        if value := getattr(settings, name).strip().strip("/"):
            return f"{name} = {value}"
    for name in ("allowed_hosts", "cors_origins"):
        for each in getattr(settings, name).split(","):
            if each.strip() and not is_loopback(host_of(each.strip())):
                return f"{name} = {each.strip()}"
    return ""


def host_of(text: str) -> str:
    """The host name of a name or of an origin; the text itself if it is neither."""
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or text
    except ValueError:
        return text


def closed(settings: Settings, has_accounts: bool, forwarded: str = "") -> Message | None:
    """Why a server without accounts must not serve, as a sentence; None if it may.

    ``forwarded`` is the header by which a request says that a proxy or a tunnel passed it on, if it has one: where
    none is configured, that is one whose operator forgot about it, and anybody may stand behind it.
    """
    if has_accounts or settings.auth == "none":
        return None
    if setting := exposing(settings):
        return message("exposed", setting=setting)
    if forwarded:
        return message("exposed_by_proxy", header=forwarded)
    return None


def check_exposure(settings: Settings, has_accounts: bool) -> None:
    """Raises UserError where others could reach a server that has no accounts."""
    if reason := closed(settings, has_accounts):
        raise UserError(reason)
