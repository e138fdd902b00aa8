"""Opens Huey by URL: the message queue that wakes workers and runs chores, on SQLite, Redis, PostgreSQL or a broker.

Huey delivers a message at most once and loses the current one when its process dies. So messages carry no state: a
lost or duplicate message never loses or duplicates a picture, and a queue may be deleted at any time.
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
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

import huey.storage
from filelock import FileLock
from huey import Huey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import PostgresStorage, RedisStorage, SqliteStorage

from diffusion_local.disk import FILE, create_private
from diffusion_local.errors import InvalidParams, QueueUnavailable, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings

log = logging.getLogger(__name__)

#: Seconds that a blocking dequeue waits in the server; also the longest time that it delays a stopping worker.
BLOCK_SECONDS = 0.25
#: Timeout for a Redis server; a submit waits no longer.
TIMEOUT_SECONDS = 1.0
SQLITE_BUSY_SECONDS = 15
#: The Huey storage methods that this program uses.
STORAGE_METHODS = ("enqueue", "dequeue", "queue_size", "add_to_schedule", "read_schedule")
URL_EXAMPLES = (
    "sqlite:////folder/queue.db, redis://host:6379/0, unix:///run/redis/redis.sock, postgresql://user@host/name, "
    "amqp://user@host/ or sqs://"
)
#: Schemes whose URL need not name a host.
HOSTLESS = ("sqs", "postgresql", "postgres")


class JsonSerializer(Serializer):
    """Huey messages as JSON. The default serializer uses pickle, with which a crafted message could run code."""

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
class QueueUrl:
    """A parsed queue URL. ``prefix``: prepended to the names of its queues, so that several studios can share one
    server.
    """

    url: SplitResult
    prefix: str

    @property
    def display(self) -> str:
        """The URL without credentials, for messages."""
        place = f"/{self.path.as_posix()}" if self.url.scheme == "sqlite" else self.url.path
        return f"{self.url.scheme}://{self.url.netloc.rpartition('@')[2]}{place}"

    def text(self, **options: str) -> str:
        """The URL without its prefix option, with further options."""
        query = "&".join(filter(None, (self.url.query, urlencode(options))))  # geturl() drops the slashes of unix:///
        return f"{self.url.scheme}://{self.url.netloc}{self.url.path}{'?' if query else ''}{query}"

    @property
    def path(self) -> Path:
        """The file of a SQLite URL; three slashes start a relative path, four an absolute one."""
        return Path(unquote(self.url.path[1:]))


def parse_url(url: str) -> QueueUrl:
    """Parse a queue URL. Raises InvalidParams for the setting ``queue``, without echoing a password."""
    try:
        split = urlsplit(url)
        port, query = split.port, parse_qs(split.query, strict_parsing=bool(split.query))
    except ValueError as error:
        raise InvalidParams("queue", message("queue_url_why", examples=URL_EXAMPLES, why=error)) from None
    if split.scheme not in BACKENDS:
        raise InvalidParams("queue", message("queue_url_scheme", examples=URL_EXAMPLES, got=echo(split.scheme)))
    place = split.path.strip("/")
    file = split.scheme in ("sqlite", "unix")
    there = place if file else port != 0 and (split.hostname or split.scheme in HOSTLESS)
    if not there or (split.scheme == "sqlite" and split.netloc):
        raise InvalidParams("queue", message("queue_url_place", examples=URL_EXAMPLES))
    if split.scheme in ("redis", "rediss") and place and not place.isdecimal():
        raise InvalidParams("queue", message("queue_url_number", examples=URL_EXAMPLES))
    prefix = query.pop("prefix", [""])[-1]
    if split.scheme == "sqlite" and query:
        raise InvalidParams("queue", message("queue_url_option", option=echo(next(iter(query)))))
    return QueueUrl(split._replace(query=urlencode(query, doseq=True)), prefix)


def queue_url(settings: Settings) -> str:
    """The URL of the settings, with the studio's own prefix; by default the database's server, or ``queue.db``."""
    if not settings.queue and not settings.database:
        return sqlite_url(settings.queue_database)
    address = parse_url(settings.queue or settings.database)
    if address.url.scheme == "sqlite":
        address = replace(address, url=urlsplit(sqlite_url(settings.home / address.path)))
    return address.text(prefix=address.prefix or (database_prefix(settings) or home_prefix(settings)))


def queue_file(settings: Settings) -> Path | None:
    """The queue's SQLite file, or None if it is on a server."""
    if not settings.queue:
        return None if settings.database else settings.queue_database
    address = parse_url(settings.queue)
    return settings.home / address.path if address.url.scheme == "sqlite" else None


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{quote(path.as_posix())}"


def database_prefix(settings: Settings) -> str:
    """A prefix that all processes of a database server share, whatever their homes; "" without a server.

    It is a hash of the server's address in the URL. Different spellings of one address cost rings, never a job.
    """
    if not settings.database:
        return ""
    split = urlsplit(settings.database)
    host = (split.hostname or "").lower() + "".join(parse_qs(split.query).get("host", []))
    return sha256(f"{host}:{split.port or 5432}{split.path}".encode()).hexdigest()[:16]


def home_prefix(settings: Settings) -> str:
    """A random queue prefix shared by all processes of a home, created on first use."""
    path = settings.home / "queue.id"
    create_private(path)
    with FileLock(settings.locks / "queue.id.lock", mode=FILE):
        if not path.read_text(encoding="ascii").strip():
            path.write_text(secrets.token_hex(8), encoding="ascii")
        return path.read_text(encoding="ascii").strip()


def open_huey(url: str, name: str) -> Huey:
    """Open the queue of this name. Its calls raise QueueUnavailable, whatever the backend.

    A server need not be reachable yet. Raises InvalidParams for the setting ``queue`` if the URL is unusable, and
    QueueUnavailable if its file is.
    """
    address = parse_url(url)
    return BACKENDS[address.url.scheme](address, f"{address.prefix}.{name}" if address.prefix else name)


def open_sqlite(address: QueueUrl, name: str) -> Huey:
    """Open a queue file. A damaged file is moved aside and replaced, because its messages are dispensable."""
    path = address.path
    with contextlib.suppress(FileNotFoundError):  # another process moved it first
        try:
            return connect_sqlite(path, name)
        except sqlite3.DatabaseError as error:
            if not any(words in str(error) for words in ("not a database", "malformed")):
                raise QueueUnavailable(message("queue_file_closed", file=path.name, error=error)) from error
            log.warning("%s is damaged (%s) and set aside; nothing is lost", path.name, error)
            path.replace(path.with_suffix(".damaged"))
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
    return connect_sqlite(path, name)


def connect_sqlite(path: Path, name: str) -> Huey:
    """Open a queue file without fsync, because losing a message does no harm."""
    create_private(path)
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=unify_errors(SqliteStorage, sqlite3.Error),
        filename=str(path),
        timeout=SQLITE_BUSY_SECONDS,
        strict_fifo=True,
        fsync=False,
    )


def import_redis() -> None:
    """Give Huey the client that it was imported without (see ``diffusion_local.queue``). Raises ImportError."""
    import redis

    if huey.storage.Redis is None:
        huey.storage.Redis, huey.storage.ConnectionPool = redis.Redis, redis.ConnectionPool
        huey.storage.ConnectionError, huey.storage.TimeoutError = redis.ConnectionError, redis.TimeoutError
        for storage in (RedisStorage, *RedisStorage.__subclasses__()):
            storage.redis_client = redis.Redis


def open_redis(address: QueueUrl, name: str) -> Huey:
    try:
        import_redis()
        from redis import ConnectionPool, RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise InvalidParams("queue", message("queue_library")) from None
    # The client's default is to retry with pauses of seconds, for which a submit would wait.
    options = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if address.url.scheme == "unix":
        del options["socket_connect_timeout"]
    try:
        pool = ConnectionPool.from_url(address.text(), **options)
        pool.make_connection()  # opens no connection, but raises for unknown options
    except (TypeError, ValueError) as error:
        raise InvalidParams("queue", message("queue_url_refused", why=error)) from None
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=unify_errors(RedisStorage, RedisError, OSError),
        connection_pool=pool,
        read_timeout=BLOCK_SECONDS,
        clean_name=False,
    )


def open_postgresql(address: QueueUrl, name: str) -> Huey:
    """Open a queue in PostgreSQL, in the studio's database or its own. Its tables are created when first needed."""
    try:
        import psycopg
    except ImportError:
        raise InvalidParams("queue", message("queue_needs_cluster")) from None
    try:
        options = psycopg.conninfo.conninfo_to_dict(address.text()) | {"connect_timeout": 2}
    except psycopg.Error as error:
        raise InvalidParams("queue", message("queue_url_refused", why=" ".join(str(error).split()))) from None
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=unify_errors(create_on_demand(PostgresStorage, psycopg.errors), psycopg.Error),
        read_timeout=BLOCK_SECONDS,
        create_tables=False,
        **options,
    )


def create_on_demand(storage: type, errors: Any) -> type:
    """A subclass of a Huey storage class that creates its tables when a call finds none."""

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def retrying(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return call(self, *args, **kwargs)
            except errors.UndefinedTable:
                with contextlib.suppress(errors.UniqueViolation, errors.DuplicateTable):  # another process created them
                    self.initialize_schema()
                return call(self, *args, **kwargs)

        return retrying

    return type(storage.__name__, (storage,), {name: wrapped(getattr(storage, name)) for name in STORAGE_METHODS})


def open_broker(address: QueueUrl, name: str) -> Huey:
    """Open a queue on a broker that kombu supports."""
    try:
        from diffusion_local.queue.broker import BrokerStorage, errors_of
    except ImportError:
        raise InvalidParams("queue", message("queue_needs_cluster")) from None
    options = {key: values[-1] for key, values in parse_qs(address.url.query).items()}
    url = f"{address.url.scheme}://{address.url.netloc}{address.url.path}"
    return Huey(
        name=name,
        results=False,
        serializer=JsonSerializer(),
        storage_class=unify_errors(BrokerStorage, *errors_of(url)),
        url=url,
        options=options,
    )


#: Backend by URL scheme.
BACKENDS: dict[str, Callable[[QueueUrl, str], Huey]] = {
    "sqlite": open_sqlite,
    "redis": open_redis,
    "rediss": open_redis,
    "unix": open_redis,
    "postgresql": open_postgresql,
    "postgres": open_postgresql,
    "amqp": open_broker,
    "amqps": open_broker,
    "sqs": open_broker,
}


def unify_errors(storage: type, *errors: type[Exception]) -> type:
    """A subclass of a Huey storage class that raises QueueUnavailable in place of its backend's errors."""

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def both(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except errors as error:
                raise QueueUnavailable(message("queue_unavailable_why", why=error)) from error

        return both

    return type(storage.__name__, (storage,), {name: wrapped(getattr(storage, name)) for name in STORAGE_METHODS})
