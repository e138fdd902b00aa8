"""Huey by URL: the message queue that wakes workers and runs chores, on SQLite or Redis.

Huey delivers a message at most once and forgets the one in hand when its process dies. So messages hold no state: one
that is lost or doubled never loses or doubles a picture, and a queue may be deleted at any time.
"""

import contextlib
import functools
import json
import logging
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from filelock import FileLock
from huey import Huey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import RedisStorage, SqliteStorage

from diffusion_local.disk import FILE, create_private
from diffusion_local.errors import InvalidParams, QueueUnavailable, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

#: Seconds that a blocking dequeue waits in the server: the most that a stopping worker waits for it.
WAIT_SECONDS = 0.25
#: Seconds after which a Redis server that does not answer counts as away; a submit may wait for it so long.
ANSWER_SECONDS = 1.0
SQLITE_BUSY_SECONDS = 15
#: The calls of a Huey storage by which this program uses it.
CALLS = ("enqueue", "dequeue", "queue_size", "add_to_schedule", "read_schedule")
EXAMPLES = "sqlite:////folder/queue.db, redis://host:6379/0 or unix:///run/redis/redis.sock"


class JsonSerializer(Serializer):
    """Huey's messages as JSON. Its own serializer pickles, which runs whatever code a crafted message holds."""

    def _serialize(self, data: Any) -> bytes:
        if isinstance(data, Message):
            return json.dumps({"message": data._asdict()}, default=self._encode).encode()
        return json.dumps({"data": data}, default=self._encode).encode()

    def _deserialize(self, data: bytes) -> Any:
        found = json.loads(bytes(data))
        if "message" not in found:
            return found["data"]
        fields = found["message"]
        for name in ("eta", "expires_resolved"):
            if fields.get(name):
                fields[name] = datetime.fromisoformat(fields[name]["at"])
        fields["args"] = tuple(fields["args"] or ())
        return Message(**fields)

    @staticmethod
    def _encode(value: Any) -> Any:
        if isinstance(value, datetime):
            return {"at": value.isoformat()}
        raise TypeError(f"A message carries JSON only, not {type(value).__name__}.")


@dataclass(frozen=True, slots=True)
class Address:
    """A queue URL taken apart. ``prefix`` begins the names of all its queues, so that studios can share one server."""

    url: SplitResult
    prefix: str

    @property
    def words(self) -> str:
        """The URL without user name and password, for messages."""
        place = f"/{self.path.as_posix()}" if self.url.scheme == "sqlite" else self.url.path
        return f"{self.url.scheme}://{self.url.netloc.rpartition('@')[2]}{place}"

    def text(self, **options: str) -> str:
        """The URL without its prefix, with further options."""
        query = "&".join(filter(None, (self.url.query, urlencode(options))))  # geturl() drops the slashes of unix:///
        return f"{self.url.scheme}://{self.url.netloc}{self.url.path}{'?' if query else ''}{query}"

    @property
    def path(self) -> Path:
        """The file of a SQLite URL; three slashes begin a relative path, four an absolute one."""
        return Path(unquote(self.url.path[1:]))


def parse(url: str) -> Address:
    """Raises InvalidParams naming the setting ``queue``, without repeating a password."""
    try:
        split = urlsplit(url)
        port, query = split.port, parse_qs(split.query, strict_parsing=bool(split.query))
    except ValueError as error:
        raise InvalidParams("queue", message("queue_url_why", examples=EXAMPLES, why=error)) from None
    if split.scheme not in BACKENDS:
        raise InvalidParams("queue", message("queue_url_scheme", examples=EXAMPLES, got=echo(split.scheme)))
    place = split.path.strip("/")
    there = split.hostname and port != 0 if split.scheme in ("redis", "rediss") else place
    if not there or (split.scheme == "sqlite" and split.netloc):
        raise InvalidParams("queue", message("queue_url_place", examples=EXAMPLES))
    if split.scheme in ("redis", "rediss") and place and not place.isdecimal():
        raise InvalidParams("queue", message("queue_url_number", examples=EXAMPLES))
    prefix = query.pop("prefix", [""])[-1]
    if split.scheme == "sqlite" and query:
        raise InvalidParams("queue", message("queue_url_option", option=echo(next(iter(query)))))
    return Address(split._replace(query=urlencode(query, doseq=True)), prefix)


def url_of(settings: Settings) -> str:
    """The URL of the settings with a prefix of the home's own; without a setting, that of the home's ``queue.db``."""
    if not settings.queue:
        return sqlite_url(settings.queue_database)
    address = parse(settings.queue)
    if address.url.scheme == "sqlite":
        address = replace(address, url=urlsplit(sqlite_url(settings.home / address.path)))
    return address.text(prefix=address.prefix or home_prefix(settings))


def file_of(settings: Settings) -> Path | None:
    """The file of a queue on SQLite; None where it is on a server."""
    if not settings.queue:
        return settings.queue_database
    address = parse(settings.queue)
    return settings.home / address.path if address.url.scheme == "sqlite" else None


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{quote(path.as_posix())}"


def home_prefix(settings: Settings) -> str:
    """A random name that all processes of one home use, kept in the home from the first call on."""
    path = settings.home / "queue.id"
    create_private(path)
    with FileLock(settings.locks / "queue.id.lock", mode=FILE):
        if not path.read_text(encoding="ascii").strip():
            path.write_text(secrets.token_hex(8), encoding="ascii")
        return path.read_text(encoding="ascii").strip()


def open_huey(url: str, name: str) -> Huey:
    """The queue of this name. Its calls raise QueueUnavailable, whatever the backend.

    A server need not be there yet. Raises InvalidParams naming the setting ``queue`` for a URL that cannot be used, and
    QueueUnavailable for a file that cannot.
    """
    address = parse(url)
    return BACKENDS[address.url.scheme](address, f"{address.prefix}.{name}" if address.prefix else name)


def open_sqlite(address: Address, name: str) -> Huey:
    """A damaged file is set aside: nothing in it is worth a stop."""
    path = address.path
    with contextlib.suppress(FileNotFoundError):  # another process set it aside first
        try:
            return connect_sqlite(path, name)
        except sqlite3.DatabaseError as error:
            if not any(words in str(error) for words in ("not a database", "malformed")):
                raise QueueUnavailable(message("queue_unavailable_why", why=error)) from error
            log.warning("%s is damaged (%s) and set aside; nothing is lost", path.name, error)
            path.replace(path.with_suffix(".damaged"))
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
    return connect_sqlite(path, name)


def connect_sqlite(path: Path, name: str) -> Huey:
    """Not synced to the disk: a lost message costs nothing."""
    create_private(path)
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=with_one_error(SqliteStorage, sqlite3.Error),
        filename=str(path),
        timeout=SQLITE_BUSY_SECONDS,
        strict_fifo=True,
        fsync=False,
    )


def open_redis(address: Address, name: str) -> Huey:
    try:
        from redis import ConnectionPool, RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise InvalidParams("queue", message("queue_library")) from None
    # A client tries again by itself, with pauses of seconds; here a submit waits for the answer.
    options = {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.url.scheme == "unix":
        del options["socket_connect_timeout"]
    try:
        pool = ConnectionPool.from_url(address.text(), **options)
        pool.make_connection()  # opens nothing; an option that there is not is told now
    except (TypeError, ValueError) as error:
        raise InvalidParams("queue", message("queue_url_refused", why=error)) from None
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=with_one_error(RedisStorage, RedisError, OSError),
        connection_pool=pool,
        read_timeout=WAIT_SECONDS,
        clean_name=False,
    )


#: URL scheme -> what opens it.
BACKENDS: dict[str, Callable[[Address, str], Huey]] = {
    "sqlite": open_sqlite,
    "redis": open_redis,
    "rediss": open_redis,
    "unix": open_redis,
}


def with_one_error(storage: type, *errors: type[Exception]) -> type:
    """A Huey storage whose calls raise QueueUnavailable in place of these errors of its backend."""

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def both(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except errors as error:
                raise QueueUnavailable(message("queue_unavailable_why", why=error)) from error

        return both

    return type(storage.__name__, (storage,), {name: wrapped(getattr(storage, name)) for name in CALLS})
