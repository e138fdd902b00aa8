"""Huey's storage on a broker that kombu supports: RabbitMQ (``amqp``), Amazon SQS (``sqs``), and others.

Messages only wake workers and start chores, so they are acknowledged on receipt, and delayed ones (retries of chores)
wait in the memory of the process that sent them.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from huey.storage import MemoryStorage
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import KombuError

from diffusion_local.queue.huey_backends import BLOCK_SECONDS

CONNECT_SECONDS = 2
#: Transport options with numeric values.
NUMERIC_PARAMETERS = ("polling_interval", "visibility_timeout", "wait_time_seconds")


def errors_of(url: str) -> tuple[type[Exception], ...]:
    """The exceptions that a transport raises when its broker is unavailable."""
    transport = Connection(url).transport
    return (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)


class BrokerStorage(MemoryStorage):
    """Huey storage with one connection per thread, because kombu's connections are not thread-safe."""

    blocking = True

    def __init__(self, name: str = "huey", url: str = "", options: dict[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(name, **rest)
        self._url = url
        self._errors = errors_of(url)
        texts = options or {}
        self._options: dict[str, Any] = {
            key: value == "true" if value in ("true", "false") else value for key, value in texts.items()
        }
        self._options |= {key: float(texts[key]) for key in NUMERIC_PARAMETERS if key in texts}
        if url.startswith("amqp"):  # so that ``queue_size`` counts a message as soon as it is sent
            self._options = {"confirm_publish": True} | self._options
        if url.startswith("sqs:"):
            self._options = {"wait_time_seconds": 1, "polling_interval": 0.1} | self._options
        self._local = threading.local()

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        self._retry_once(lambda line: line.producer.publish({"data": data.decode("latin-1")}, declare=[line.queue]))

    def dequeue(self) -> bytes | None:
        def take(line: BrokerConnection) -> bytes | None:
            try:
                received = line.consumer().get(block=True, timeout=BLOCK_SECONDS)
            except queue.Empty:
                return None
            received.ack()  # receiving without acknowledgement would need another client library for SQS
            return str(received.payload["data"]).encode("latin-1")

        return self._retry_once(take)

    def queue_size(self) -> int:
        return int(self._retry_once(lambda line: line.size()))

    def close(self) -> None:
        line: BrokerConnection | None = self._local.__dict__.pop("line", None)
        if line is not None:
            line.connection.release()

    def _retry_once(self, call: "Callable[[BrokerConnection], Any]") -> Any:
        """Call with this thread's connection; if it was lost while idle, reconnect and retry once."""
        fresh = not hasattr(self._local, "line")
        try:
            return call(self._thread_connection())
        except self._errors:
            self._drop()
            if fresh:
                raise
        try:
            return call(self._thread_connection())
        except self._errors:
            self._drop()
            raise

    def _thread_connection(self) -> "BrokerConnection":
        if not hasattr(self._local, "line"):
            connection = Connection(self._url, connect_timeout=CONNECT_SECONDS, transport_options=self._options)
            self._local.line = BrokerConnection(connection, self.name.replace(".", "-"))
        return self._local.line

    def _drop(self) -> None:
        with contextlib.suppress(Exception):  # the connection was already lost
            self.close()


class BrokerConnection:
    """One thread's connection to a queue. It consumes only on demand: a consumer would take messages from others."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        exchange = Exchange(name, type="direct")
        channel = connection.default_channel
        self.queue = Queue(name, exchange, routing_key=name)(channel)
        self.queue.declare()
        self.producer = Producer(channel, exchange, routing_key=name)
        self._consumer: Any = None

    def consumer(self) -> Any:
        if self._consumer is None:
            self._consumer = self.connection.SimpleQueue(self.queue)
            self._consumer.consumer.qos(prefetch_count=1)  # leave the remaining rings in the queue for others
        return self._consumer

    def size(self) -> int:
        return int(self.queue.queue_declare(passive=True).message_count)
