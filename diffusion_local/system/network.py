"""Network: addresses of this machine, mDNS announcement, self-signed certificates, TLS checks, and whether a server
is exposed.
"""

import contextlib
import ipaddress
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import ifaddr

from diffusion_local.errors import Conflict, InvalidParams, UserError, echo
from diffusion_local.messages import Message, message
from diffusion_local.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)

SERVICE = "_http._tcp.local."
ANNOUNCED = "diffusion-local on "
CERTIFICATE_DAYS = 825  # the maximum that Apple's systems accept


def addresses() -> list[str]:
    """This machine's addresses for other machines: IPv4 first, without loopback and link-local ones."""
    texts: list[str] = []
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0])
            if not (address.is_loopback or address.is_link_local or address.is_multicast):
                texts.append(str(address))
    return sorted(dict.fromkeys(texts), key=lambda text: (":" in text, text))


def urls(scheme: str, host: str, port: int, root: str = "") -> list[str]:
    """URLs at which other machines reach a server that listens on ``host``."""
    if host not in ("0.0.0.0", "::", ""):
        return [f"{scheme}://{bracketed(host)}:{port}{root}"]
    reached = [each for each in addresses() if host != "0.0.0.0" or ":" not in each]
    return [f"{scheme}://{bracketed(each)}:{port}{root}" for each in reached]


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def announced(port: int, root: str = "", enabled: bool = True, scheme: str = "http") -> Iterator[None]:
    """Announce the server by mDNS as ``diffusion-local on <host>`` inside the context. Failures are only logged."""
    if not enabled:
        yield
        return
    from zeroconf import ServiceInfo, Zeroconf

    own = socket.gethostname().split(".")[0]
    service = ServiceInfo(
        SERVICE,
        f"{ANNOUNCED}{own}.{SERVICE}",
        parsed_addresses=addresses(),
        port=port,
        properties={"path": f"{root}/", "scheme": scheme},
        server=f"{own}.local.",
    )
    zeroconf = None
    try:
        zeroconf = Zeroconf()
        zeroconf.register_service(service, allow_name_change=True)
    except Exception as error:  # no network or no multicast: the server works anyway
        log.warning("the studio cannot be announced by mDNS: %s", error)
    try:
        yield
    finally:
        if zeroconf is not None:
            zeroconf.close()


def discover(seconds: float) -> list[str]:
    """URLs of studios that announce themselves by mDNS, after listening for some seconds. Failures are only logged."""
    from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

    studios: list[str] = []

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            info = zc.get_service_info(type_, name, round(seconds * 1000)) if name.startswith(ANNOUNCED) else None
            if info is None or not info.port:
                return
            properties = {
                key.decode(): (value or b"").decode("utf-8", "replace") for key, value in info.properties.items()
            }
            scheme = "https" if properties.get("scheme") == "https" else "http"
            for address in info.parsed_addresses():
                studios.append(f"{scheme}://{bracketed(address)}:{info.port}{properties.get('path', '').rstrip('/')}")

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None: ...

    try:
        with contextlib.closing(Zeroconf()) as zeroconf:
            browser = ServiceBrowser(zeroconf, SERVICE, Listener())
            time.sleep(seconds)
            browser.cancel()
    except Exception as error:  # no network or no multicast
        log.warning("the search for studios by mDNS failed: %s", error)
    return list(dict.fromkeys(studios))


def is_loopback(host: str) -> bool:
    """Whether a server listening on ``host`` is reachable from this machine only."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def local_host(host: str) -> str:
    """The host at which this machine reaches a server listening on ``host``."""
    if host in ("", "0.0.0.0"):
        return "127.0.0.1"
    return "::1" if host == "::" else host.strip("[]")


def local_url(settings: Settings) -> str:
    return (
        f"{scheme(settings)}://{bracketed(local_host(settings.host))}:{settings.port}{settings.root_path.rstrip('/')}"
    )


def other_urls(settings: Settings) -> list[str]:
    """URLs for other machines; empty if the server listens on loopback only."""
    if is_loopback(settings.host):
        return []
    return urls(scheme(settings), settings.host, settings.port, settings.root_path.rstrip("/"))


def address_file(settings: Settings) -> Path:
    """Written by ``serve`` while it runs, because its options may differ from the settings of another command."""
    return settings.locks / "serve.json"


def url_to_join(settings: Settings) -> str:
    """The URL by which another machine reaches the studio: of ``public_url``, of the running server, or as set."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    try:
        served = json.loads(address_file(settings).read_text(encoding="utf-8"))
        return str(next(iter(served["others"]), served["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return next(iter(other_urls(settings)), local_url(settings))


def scheme(settings: Settings) -> str:
    return "https" if settings.tls_cert else "http"


def check_tls(settings: Settings) -> None:
    """Raise InvalidParams if certificate and key are unusable; otherwise a child process would crash repeatedly."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidParams("tls_cert", message("tls_together"))
    if settings.tls_cert:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise InvalidParams("tls_cert", message("tls_unusable", error=error)) from None


def exposing_setting(settings: Settings) -> str:
    """The setting (with its value) that exposes the server to other machines, or ""."""
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
    """Host name of a host or origin; the text itself if it is neither."""
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or text
    except ValueError:
        return text


def refusal_reason(settings: Settings, has_accounts: bool, forwarded: str = "") -> Message | None:
    """Why a server must not serve without accounts, or None if it may.

    ``forwarded``: the proxy header of a request, if any. If no proxy is configured, the header comes from a forgotten
    one, which may let anyone through.
    """
    if has_accounts or settings.auth == "none":
        return None
    if setting := exposing_setting(settings):
        return message("exposed", setting=setting)
    if forwarded:
        return message("exposed_by_proxy", header=forwarded)
    return None


def check_exposure(settings: Settings, has_accounts: bool) -> None:
    """Raise UserError if other machines could reach a server without accounts."""
    if reason := refusal_reason(settings, has_accounts):
        raise UserError(reason)


def self_signed(certificate: Path, key: Path, more_names: list[str], replace: bool = False) -> tuple[list[str], str]:
    """Write a certificate and its key (mode 0600); returns (names in it, SHA-256 fingerprint).

    Raises Conflict if they exist already, InvalidParams if a file cannot be written.
    """
    from cryptography import x509  # here, because it takes 8 MB and few processes need it
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    for path in (certificate, key):
        if path.exists() and not replace:
            raise Conflict(message("tls_replace", path=path))
    own = socket.gethostname()
    names = dict.fromkeys(["localhost", own, f"{own.split('.')[0]}.local", *more_names])
    places = dict.fromkeys(["127.0.0.1", "::1", *addresses()])
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"diffusion-local on {own}"[:64])])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([general_name(each) for each in (*names, *places)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    private = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write(key, private, 0o600)
        write(certificate, signed.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise InvalidParams("tls", message("cannot_be_written", error=error)) from None
    return [*names, *places], signed.fingerprint(hashes.SHA256()).hex(":")


def general_name(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise InvalidParams("name", message("tls_name", got=echo(name))) from None


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a new file with ``mode`` from the start, so that a private one is never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
