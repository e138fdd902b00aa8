"""The doorbell, by Huey on SQLite. A message says "look into the jobs table", and nothing else.

Huey delivers at most once and forgets what it was doing when it dies; so no state lives in a message, and a message
lost or doubled never loses or doubles a picture. Deleting ``queue.db`` is always safe.
"""

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from huey import SqliteHuey, crontab
from huey.registry import Message
from huey.serializer import Serializer

from diffusion_local.modes import create_private

log = logging.getLogger(__name__)

#: Idle seconds between two looks for a ring; what an idle worker's start latency is made of (half of it on average).
POLL_SECONDS = 0.03
#: A submit rings at most so often: enough to wake every worker of one machine.
MOST_RINGS = 16
CHORE_STOP_SECONDS = 5


class JobQueue(Protocol):
    def ring(self, times: int = 1) -> None:
        """Wake as many workers. Losing it costs seconds, never a job."""
        ...

    def consume(self, look: Callable[[], None], stop: threading.Event, every: float) -> None:
        """Call ``look`` at each ring, and at least each ``every`` seconds, until ``stop`` is set."""
        ...


class JsonSerializer(Serializer):
    """Huey's messages as JSON. Its own serializer pickles, which runs whatever code a crafted row holds."""

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


def open_huey(path: Path, name: str) -> SqliteHuey:
    """A damaged file is set aside: nothing in it is worth a stop."""
    with contextlib.suppress(FileNotFoundError):  # another process set it aside first
        try:
            return connect(path, name)
        except sqlite3.DatabaseError as error:
            if not any(words in str(error) for words in ("not a database", "malformed")):
                raise
            log.warning("%s is damaged (%s) and set aside; nothing is lost", path.name, error)
            path.replace(path.with_suffix(".damaged"))
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
    return connect(path, name)


def connect(path: Path, name: str) -> SqliteHuey:
    create_private(path)
    return SqliteHuey(
        name=name,
        filename=str(path),
        results=False,
        serializer=JsonSerializer(),
        timeout=15,
        strict_fifo=True,
        fsync=False,
    )


class HueyQueue:
    """Rings as Huey tasks in ``queue.db``; not synced to the disk, as a lost ring is found by the next look."""

    def __init__(self, path: Path) -> None:
        self._huey = open_huey(path, "doorbell")
        # Huey names a task by its function's module: declared here, the name is the same in every process.
        self._ring = self._huey.task(name="ring")(ring)

    def ring(self, times: int = 1) -> None:
        try:
            # As many as wake every worker; rings that nobody hears must not pile up where no worker runs.
            for _ in range(min(times, MOST_RINGS - self.waiting())):
                self._ring()
        except sqlite3.Error as error:  # what was rung for is in the table, and is found by the next look
            log.warning("a ring was lost: %s", error)

    def consume(self, look: Callable[[], None], stop: threading.Event, every: float) -> None:
        """Runs on the calling thread, so that signals and the GPU belong to the main thread."""
        idle = every
        while not stop.is_set():
            rung = self._take()
            if rung or idle >= every:
                idle = 0.0
                look()
            else:
                stop.wait(POLL_SECONDS)
                idle += POLL_SECONDS

    def _take(self) -> bool:
        """Whether somebody rang. A message that cannot be read is gone from the queue, and is a ring all the same."""
        try:
            task = self._huey.dequeue()
            if task is not None:
                self._huey.execute(task)
        except sqlite3.Error as error:
            log.debug("no ring can be heard: %s", error)  # each poll; the idle look goes on without
            return False
        except Exception as error:
            log.warning("a message that cannot be read was dropped: %r", error)
            return True
        return task is not None

    def waiting(self) -> int:
        return self._huey.pending_count()


class ChoreQueue:
    """Tasks on Huey's own consumer, in threads of the calling process; queues of another name do not wait for it."""

    def __init__(self, path: Path, name: str = "chores") -> None:
        self._huey = open_huey(path, name)
        self._consumer: Any = None

    def add(self, name: str, chore: Callable[[], None], hours: int) -> None:
        """Run ``chore`` now, once started, and each ``hours`` hours."""

        def run() -> None:
            chore()

        task = self._huey.periodic_task(crontab(minute="17", hour=f"*/{hours}"), name=name)(run)
        task()

    def add_rung(self, name: str, work: Callable[[], None]) -> Callable[[], None]:
        """A task that runs soon whenever what comes back is called."""

        def run() -> None:
            work()

        declared = self._huey.task(name=name)(run)

        def ring() -> None:
            try:
                declared()
            except sqlite3.Error as error:  # what was rung for is in its table, and is found by a later look
                log.warning("a chore's ring was lost: %s", error)

        return ring

    def start(self) -> None:
        """Takes SIGINT and SIGTERM, as every Huey consumer does: set the process's own handlers after this."""
        self._consumer = self._huey.create_consumer(workers=1, shutdown_timeout=CHORE_STOP_SECONDS)
        self._consumer.start()

    def stop(self) -> None:
        """Let the chore in hand end, and start no other."""
        if self._consumer is not None:
            self._consumer.stop(graceful=True)


def ring() -> None:
    """The doorbell's task; that it ran is all it says."""
