"""Checks the addresses that webhooks and downloads connect to. A user who can choose a URL must not reach internal
networks through this server.

The host is resolved and all its addresses are checked; the caller then connects to a checked address instead of the
name, so DNS rebinding has no effect.
"""

import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS = 2000
RESOLVE_SECONDS = 5.0
MAX_ADDRESSES = 8  # addresses tried per name
#: Allowed ports below 1024; the others belong to services that must not be contacted.
PORTS = {80, 443}
#: Cloud metadata services and the like outside of the private ranges.
BLOCKED = tuple(ipaddress.ip_network(each) for each in ("168.63.129.16/32", "192.0.0.0/24"))
NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: IPv6 ranges that embed an IPv4 address for a relay: Teredo, IPv4-compatible, local NAT64.
RELAYS = tuple(ipaddress.ip_network(each) for each in ("2001::/32", "::/96", "64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class AllowedTargets:
    """Host names and networks in private ranges that a setting allows."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    setting: str = "webhook_allow_private"

    @classmethod
    def parse(cls, text: str, setting: str = "webhook_allow_private") -> "AllowedTargets":
        """Parse the setting. Raises InvalidParams for an invalid entry."""
        hosts, networks = set(), []
        for entry in re.split(r"[,\s]+", text.strip()):
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if entry and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", entry):
                    problem = message("hook_networks", got=echo(entry))
                    raise InvalidParams(setting, problem) from None
                if entry:
                    hosts.add(entry.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks), setting)

    def allows(self, host: str, address: Address) -> bool:
        return host in self.hosts or any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked target: the URL as given, its host, and the addresses to connect to."""

    url: "httpx.URL"
    host: str
    addresses: tuple[Address, ...]


def parse_url(url: str, field: str = "webhook") -> "httpx.URL":
    """Parse and validate a URL without resolving its host. Raises InvalidParams.

    Uses the sending library's parser, so that no two parsers can disagree.
    """
    import httpx

    if len(url) > MAX_URL_CHARS:
        raise InvalidParams(field, message("hook_letters", most=MAX_URL_CHARS, got=len(url)))
    if any(ord(sign) <= 32 or ord(sign) == 127 or sign == "\\" for sign in url):
        raise InvalidParams(field, message("hook_spaces"))
    try:
        parts = httpx.URL(url)
        host = parts.host
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise InvalidParams(field, message("hook_address", error=error)) from None
    if parts.scheme not in ("http", "https"):
        raise InvalidParams(field, message("hook_scheme", got=echo(url)))
    if not host:
        raise InvalidParams(field, message("hook_host", got=echo(url)))
    if parts.userinfo:
        raise InvalidParams(field, message("hook_user"))
    if parts.port is not None and parts.port not in PORTS and not 1024 <= parts.port <= 65535:
        raise InvalidParams(field, message("hook_port", got=parts.port))
    if "%" in host:
        raise InvalidParams(field, message("hook_interface"))
    if is_numeric_host(host):
        raise InvalidParams(field, message("hook_numbers", got=echo(host)))
    return parts


def is_numeric_host(host: str) -> bool:
    """Whether a host is an IPv4 address in a non-standard spelling (2130706433, 0x7f.1, 0177.0.0.1)."""
    last = host.rstrip(".").rpartition(".")[2]
    if ":" in host or not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", last):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def check_target(url: str, allowed: AllowedTargets, field: str = "webhook") -> Target:
    """Resolve and check a URL. Raises InvalidParams with the reason if it must not be called."""
    parts = parse_url(url, field)
    host = parts.raw_host.decode("ascii").lower().rstrip(".")
    addresses = resolve(host, parts.port or (443 if parts.scheme == "https" else 80), field)
    for address in addresses:
        if not is_public(address) and not allowed.allows(host, address):
            where = host if host == str(address) else f"{host} ({address})"
            raise InvalidParams(
                field,
                message("hook_private", host=where, setting=allowed.setting),
            )
    return Target(parts, host, addresses)


def resolve(host: str, port: int, field: str) -> tuple[Address, ...]:
    """The host's addresses, at most MAX_ADDRESSES. Raises InvalidParams."""
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        pass
    pool = ThreadPoolExecutor(1, thread_name_prefix="resolve")
    try:
        answers = pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM).result(RESOLVE_SECONDS)
    except (OSError, UnicodeError, TooLate) as error:
        why = message("no_name_service") if isinstance(error, TooLate) else str(error)
        raise InvalidParams(field, message("hook_found_why", host=host, error=why)) from None
    finally:
        pool.shutdown(wait=False)
    addresses = tuple(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in answers))
    if not addresses:
        raise InvalidParams(field, message("hook_found", host=host))
    return addresses[:MAX_ADDRESSES]


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; for IPv6 also checks an embedded IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address in NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(inside)
        if any(address in relay for relay in RELAYS):
            return False
    if any(address in network for network in BLOCKED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
