"""Signed addresses of pictures, for programs that cannot sign in.

A signed address opens one picture by GET for at most ``LINK_SECONDS``. It names its account and, if it was made with a
token, that token: if either is removed, the address becomes invalid. It never opens a picture that the account may not
read. Query strings are not logged.
"""

import hmac
import socket
import time
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode

from diffusion_local.notify.webhook import stored_secret
from diffusion_local.settings import Settings

KEY_FILE = "links.secret"
LINK_SECONDS = 3600
#: Addresses made within this many seconds are equal, so that clients can cache responses that contain them.
STEP = 600
WILDCARD_HOSTS = ("0.0.0.0", "::", "[::]", "")
SIGNED_FIELDS = ("expires", "account", "token", "signature")


@dataclass(frozen=True, slots=True)
class Bearer:
    """The account on whose behalf an address was signed. ``token``: id of the token that requested it, or ""."""

    account: str
    token: str


class Links:
    """Signs addresses with a key stored in the home, and verifies them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _key(self) -> bytes:
        return stored_secret(self._settings.home / KEY_FILE).encode()

    def query(self, path: str, account: str, token: str = "") -> str:
        """Query string, with "?", that opens ``path`` (without a proxy's prefix)."""
        expires = str(int(time.time()) // STEP * STEP + LINK_SECONDS)
        values = {"expires": expires, "account": account, "token": token}
        return "?" + urlencode(values | {"signature": self._signature(path, values)})

    def bearer(self, path: str, query: str) -> Bearer | None:
        """The bearer of a signed ``query`` for ``path``, or None if the signature is missing, invalid or expired."""
        parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=20, errors="replace"))
        if not all(name in parameters for name in SIGNED_FIELDS) or not parameters["expires"].isdecimal():
            return None
        values = {name: parameters[name] for name in SIGNED_FIELDS[:-1]}
        if not hmac.compare_digest(self._signature(path, values).encode(), parameters["signature"].encode()):
            return None
        return Bearer(parameters["account"], parameters["token"]) if time.time() < int(parameters["expires"]) else None

    def _signature(self, path: str, values: dict[str, str]) -> str:
        text = "\n".join([path, *(values[name] for name in SIGNED_FIELDS[:-1])])
        return hmac.new(self._key, text.encode("utf-8", "replace"), sha256).hexdigest()


def root_of(settings: Settings) -> str:
    """The server's public URL, for addresses made outside of a request: the setting, or scheme, host, port and path."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme = "https" if settings.tls_cert else "http"
    host = socket.gethostname() if settings.host in WILDCARD_HOSTS else settings.host
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{host}:{settings.port}{settings.root_path.rstrip('/')}"
