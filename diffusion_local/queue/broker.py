"""Huey's storage on a broker that kombu speaks to: RabbitMQ (``amqp``), Amazon SQS (``sqs``), and others.

Messages only wake workers and start chores, so they are acknowledged when they are taken, and delayed ones (the retries
of chores) wait in the memory of the process that sent them.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from huey.storage import MemoryStorage
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import KombuError

#: Seconds that a blocking dequeue waits, and so the longest delay of a stopping worker.
BLOCK_SECONDS = 0.25
CONNECT_SECONDS = 2
#: Transport options that are no texts.
NUMBERS = ("polling_interval", "visibility_timeout", "wait_time_seconds")


def errors_of(url: str) -> tuple[type[Exception], ...]:
    """The errors by which a transport says that its broker cannot be used."""
    transport = Connection(url).transport
    return (KombuError, OSError, *transport.connection_errors, *transport.channel_errors)


class BrokerStorage(MemoryStorage):
    """One connection per thread: kombu's are not shared between threads."""

    blocking = True

    def __init__(self, name: str = "huey", url: str = "", options: dict[str, Any] | None = None, **rest: Any) -> None:
        super().__init__(name, **rest)
        self._url = url
        self._errors = errors_of(url)
        texts = options or {}
        self._options: dict[str, Any] = {
            key: value == "true" if value in ("true", "false") else value for key, value in texts.items()
        }
        self._options |= {key: float(texts[key]) for key in NUMBERS if key in texts}
        if url.startswith("amqp"):  # so that a ring is counted once it was sent
            self._options = {"confirm_publish": True} | self._options
        if url.startswith("sqs:"):
            self._options = {"wait_time_seconds": 1, "polling_interval": 0.1} | self._options
        self._local = threading.local()

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        self._retry_once(lambda line: line.producer.publish({"data": data.decode("latin-1")}, declare=[line.queue]))

    def dequeue(self) -> bytes | None:
        def take(line: Line) -> bytes | None:
            try:
                found = line.consumer().get(block=True, timeout=BLOCK_SECONDS)
            except queue.Empty:
                return None
            found.ack()  # taking without acknowledgement needs another client library with SQS
            return str(found.payload["data"]).encode("latin-1")

        return self._retry_once(take)

    def queue_size(self) -> int:
        return int(self._retry_once(lambda line: line.size()))

    def close(self) -> None:
        line: Line | None = self._local.__dict__.pop("line", None)
        if line is not None:
            line.connection.release()

    def _retry_once(self, call: "Callable[[Line], Any]") -> Any:
        """Call with this thread's connection; one that was lost while it was idle is replaced once."""
        fresh = not hasattr(self._local, "line")
        try:
            return call(self._line())
        except self._errors:
            self._drop()
            if fresh:
                raise
        try:
            return call(self._line())
        except self._errors:
            self._drop()
            raise

    def _line(self) -> "Line":
        if not hasattr(self._local, "line"):
            connection = Connection(self._url, connect_timeout=CONNECT_SECONDS, transport_options=self._options)
            self._local.line = Line(connection, self.name.replace(".", "-"))
        return self._local.line

    def _drop(self) -> None:
        with contextlib.suppress(Exception):  # it was lost already
            self.close()


class Line:
    """One thread's connection to a queue. It consumes only once asked to, or it would take what others wait for."""

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
            self._consumer.consumer.qos(prefetch_count=1)  # the others' rings stay in the queue
        return self._consumer

    def size(self) -> int:
        return int(self.queue.queue_declare(passive=True).message_count)
