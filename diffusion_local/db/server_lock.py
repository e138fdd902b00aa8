"""Named locks on a PostgreSQL server, held by a process against every machine that uses the database. Like file locks,
they are released when the process ends.
"""

import threading
import time
from hashlib import sha256
from typing import Any

import psycopg
from filelock import Timeout

from diffusion_local.db.postgresql import CONNECTION_ERRORS, PostgresDatabase
from diffusion_local.db.server_connections import connect

POLL_SECONDS = 0.1


class ServerLock:
    """An advisory lock held by its own connection, with the interface of ``FileLock``.

    A server restart releases it. ``keep`` acquires it again, unless another process was faster.
    """

    def __init__(self, database: PostgresDatabase, name: str) -> None:
        self._database = database
        self._name = name
        self._key = int.from_bytes(sha256(name.encode()).digest()[:8], "big", signed=True)
        self._connection: psycopg.Connection[Any] | None = None
        self._mutex = threading.Lock()

    def acquire(self, timeout: float = -1) -> "ServerLock":
        """Wait for the lock. Raises filelock's Timeout after ``timeout`` seconds (-1: never), and DatabaseProblem."""
        deadline = time.monotonic() + timeout
        while not self.keep():
            if timeout >= 0 and time.monotonic() >= deadline:
                raise Timeout(self._name)
            time.sleep(POLL_SECONDS)
        return self

    def keep(self) -> bool:
        """Acquire the lock if it is free; returns whether this process holds it. Raises DatabaseProblem."""
        with self._mutex, self._database.problems():
            if self._connection is not None:
                try:
                    self._connection.execute("SELECT 1")
                    return True
                except CONNECTION_ERRORS:
                    self._close()
            self._connection = connect(self._database.url)
            row = self._connection.execute("SELECT pg_try_advisory_lock($1)", [self._key]).fetchone()
            if row != (True,):
                self._close()
            return self._connection is not None

    def release(self) -> None:
        with self._mutex:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> "ServerLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
