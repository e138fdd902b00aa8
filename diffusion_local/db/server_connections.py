"""Connections to a PostgreSQL server: one per thread, with the type conversions and settings that the stores need."""

import contextlib
import secrets
import threading
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg.types.numeric import IntDumper
from psycopg.types.string import StrDumper

from diffusion_local.db.sqlite_connections import BUSY_SECONDS
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message

CONNECT_SECONDS = 5
#: Server settings of every session. A process that freezes in a transaction, or whose machine disappears, must not hold
#: the write lock forever.
SESSION_SETTINGS = {
    "application_name": "diffusion-local",
    "lock_timeout": f"{BUSY_SECONDS}s",
    "idle_in_transaction_session_timeout": "60s",
    "synchronous_commit": "on",  # a submit that was acknowledged survives a power cut
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",  # compiling takes longer than any of our queries
    "client_min_messages": "warning",
}


class TruthDumper(Dumper):
    """Send booleans as integers, as the tables store them."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"


class BigintDumper(IntDumper):
    """Send all integers as one type, so that each statement is prepared only once."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: int) -> bytes:
        return str(int(obj)).encode()


class NumberLoader(Loader):
    """Load sums and averages (``numeric``) as int or float."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text or text == b"NaN" else int(text)


class Session:
    """Connections to one server, one per thread. A lost one is replaced on the next use."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._local = threading.local()
        self._writes = count(1)
        self._name = secrets.token_hex(8)

    def connection(self) -> "psycopg.Connection[Any]":
        found: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        if found is None or found.closed:
            found = self._local.connection = connect(self._url)
        return found

    def next_write(self) -> tuple[str, int]:
        """(name of this thread, unique among all writers; number of its next write)."""
        return f"{self._name}-{threading.get_ident()}", next(self._writes)

    def close(self) -> None:
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def connect(url: str) -> "psycopg.Connection[Any]":
    """Open an autocommit connection; ``PostgresDatabase`` begins and ends transactions."""
    parameters = conninfo_to_dict(url)
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items() if name != "application_name")
    connection = psycopg.connect(
        url,
        autocommit=True,
        cursor_factory=psycopg.RawCursor,
        row_factory=tuple_row,
        application_name=parameters.get("application_name", SESSION_SETTINGS["application_name"]),
        connect_timeout=int(parameters.get("connect_timeout") or CONNECT_SECONDS),
        options=f"{parameters.get('options', '')} {options}".strip(),
        client_encoding="utf8",
    )
    connection.prepared_max = 500
    for kind, dumper in ((bool, TruthDumper), (int, BigintDumper), (str, StrDumper)):
        connection.adapters.register_dumper(kind, dumper)
    connection.adapters.register_loader("numeric", NumberLoader)
    return connection


def check_url(url: str) -> str:
    """Validate the setting ``database``; returns it. Raises InvalidParams, without echoing a password."""
    example = "postgresql://user:password@host/name"
    try:
        split = urlsplit(url)
        named = split.path.strip("/") or "dbname" in parse_qs(split.query)
        if split.scheme not in ("postgresql", "postgres") or not named or split.port == 0:
            raise InvalidParams("database", message("database_url", why=example))
        conninfo_to_dict(url)
    except (ValueError, psycopg.Error) as error:
        raise InvalidParams("database", message("database_url", why=" ".join(str(error).split()))) from None
    return url


def display(url: str) -> str:
    """The URL without user, password and options, for messages."""
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"
