"""Signed addresses of pictures, for programs that cannot sign in.

A signed address opens one picture with a plain GET for at most ``SECONDS``. It names the account on whose behalf it was
made and, where a token made it, that token: once either is removed, the address opens nothing. It never opens a picture
that the account may not see. Query strings are not logged.
"""

import hmac
import time
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from urllib.parse import parse_qsl, urlencode

from diffusion_local.notify.webhook import kept_in
from diffusion_local.settings import Settings

FILE = "links.secret"
SECONDS = 3600
#: Addresses made within this many seconds are equal, so that clients can cache answers that contain them.
STEP = 600
FIELDS = ("expires", "account", "token", "signature")


@dataclass(frozen=True, slots=True)
class Bearer:
    """On whose behalf an address was signed; ``token`` is the id of a token, empty where none was used."""

    account: str
    token: str


class Links:
    """Signs addresses with a key that the home keeps, and reads them back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _key(self) -> bytes:
        return kept_in(self._settings.home / FILE).encode()

    def query(self, path: str, account: str, token: str = "") -> str:
        """The query string that opens ``path`` (without the prefix of a proxy), with its question mark."""
        expires = str(int(time.time()) // STEP * STEP + SECONDS)
        values = {"expires": expires, "account": account, "token": token}
        return "?" + urlencode(values | {"signature": self._signature(path, values)})

    def bearer(self, path: str, query: str) -> Bearer | None:
        """On whose behalf ``path`` is opened; None if the query carries no valid signature for it."""
        given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=20, errors="replace"))
        if not all(name in given for name in FIELDS) or not given["expires"].isdecimal():
            return None
        values = {name: given[name] for name in FIELDS[:-1]}
        if not hmac.compare_digest(self._signature(path, values).encode(), given["signature"].encode()):
            return None
        return Bearer(given["account"], given["token"]) if time.time() < int(given["expires"]) else None

    def _signature(self, path: str, values: dict[str, str]) -> str:
        text = "\n".join([path, *(values[name] for name in FIELDS[:-1])])
        return hmac.new(self._key, text.encode("utf-8", "replace"), sha256).hexdigest()
