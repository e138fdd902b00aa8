"""Learns of writes by other processes through NOTIFY, so that a web process need not ask the server for them.

Every write transaction notifies one channel at its commit (``postgresql.BEGIN_WRITE``).
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from diffusion_local.db.server_connections import connect

log = logging.getLogger(__name__)

CHANNEL = "diffusion_local"
RETRY_SECONDS = 1.0  # between attempts to connect
WAIT_SECONDS = 1.0  # of one wait for notifications, which also bounds how long the thread outlives its database
CHECK_SECONDS = 30.0  # between two tests of a silent connection


class Changes:
    """Counts the writes of all processes. Listening begins with the first ``count``, on a thread of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._mutex = threading.Lock()
        self._count = 0
        self._listening = False
        self._thread: threading.Thread | None = None

    def count(self) -> int | None:
        """A number that changes with every write; None while the server cannot be listened to."""
        if self._thread is None:
            self._start()
        return self._count if self._listening else None

    def note(self) -> None:
        """Count a write of this process at once, so that its threads see it before the notification arrives."""
        with self._mutex:
            self._count += 1

    def _start(self) -> None:
        with self._mutex:
            if self._thread is None:
                self._thread = threading.Thread(target=listen, args=(weakref.ref(self), self._url), daemon=True)
                self._thread.start()

    def heard(self, listening: bool) -> None:
        """A notification came, or the connection was opened or lost, when any number may have been missed."""
        with self._mutex:
            self._count += 1
            self._listening = listening


def listen(changes: Callable[[], Changes | None], url: str) -> None:
    """Listen until the last reference to ``changes`` is gone, and connect again after the server was away."""
    while changes() is not None:
        try:
            with connect(url) as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                for written in notifications(connection):
                    if (news := changes()) is None:
                        return
                    if written:
                        news.heard(True)
                    del news
        except psycopg.Error as error:
            log.info("writes of other processes are not heard of: %s", " ".join(str(error).split()))
        if (left := changes()) is not None:
            left.heard(False)
            del left
            time.sleep(RETRY_SECONDS)


def notifications(connection: "psycopg.Connection[Any]") -> Iterator[bool]:
    """Yields True when writes may have happened, and False after each wait without one. Raises psycopg.Error."""
    while True:
        yield True  # also for notifications that came with the answer to the test
        tested = time.monotonic()
        while time.monotonic() - tested < CHECK_SECONDS:
            for _ in connection.notifies(timeout=WAIT_SECONDS):
                yield True
            yield False
        connection.execute("SELECT 1")
