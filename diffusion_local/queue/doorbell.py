"""The doorbell that wakes workers, and the queue of background chores, both on Huey.

A ring carries no data: it means "look into the jobs table".
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from huey import crontab

from diffusion_local.errors import QueueUnavailable
from diffusion_local.queue.huey_backends import open_huey

log = logging.getLogger(__name__)

#: Polling interval of an idle worker if the backend cannot block; the mean start latency is half of it.
POLL_SECONDS = 0.03
#: How long an unavailable queue is not called, so that not every submit waits for it.
RETRY_SECONDS = 1.0
#: Rings per submit at most: enough to wake every worker of one machine.
MAX_RINGS = 16
CHORE_STOP_SECONDS = 5


class JobQueue(Protocol):
    def ring(self, times: int = 1) -> None:
        """Wake up to ``times`` workers. A lost ring costs seconds, never a job."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait about ``seconds`` for a ring; returns whether one came. Never raises while the queue is unavailable."""
        ...


class HueyQueue:
    """Rings as Huey tasks."""

    def __init__(self, url: str) -> None:
        """``url``: see ``open_huey``."""
        self._huey = open_huey(url, "doorbell")
        # Huey derives a task's name from its function's module; a function of this module has the same name everywhere.
        self._ring_task = self._huey.task(name="ring")(ring)
        self._retry_at = float("-inf")
        self._available = True
        #: Called at each ring of this process.
        self.listeners: list[Callable[[], None]] = []

    def ring(self, times: int = 1) -> None:
        for listener in self.listeners:
            listener()
        if time.monotonic() < self._retry_at:
            return
        try:
            # Bounded, so that rings do not pile up while no worker runs.
            for _ in range(min(times, MAX_RINGS - self.pending())):
                self._ring_task()
        except QueueUnavailable as problem:  # the jobs are in the table, and the workers' next poll finds them
            self._back_off(problem)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._take():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if not self._available:
                time.sleep(min(left, RETRY_SECONDS))
            elif not self._huey.storage.blocking:
                time.sleep(min(left, POLL_SECONDS))
        return True

    def _take(self) -> bool:
        """Take one ring, waiting briefly if the backend can block; returns whether there was one.

        An unreadable message counts as a ring.
        """
        try:
            task = self._huey.dequeue()
            if not self._available:
                self._available = True
                log.info("the message queue can be used again")
            if task is None:
                return False
            self._huey.execute(task)
        except QueueUnavailable as problem:
            self._back_off(problem)
            return False
        except Exception as error:
            log.warning("a message that cannot be read was dropped: %r", error)
        return True

    def _back_off(self, problem: QueueUnavailable) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._available:  # log once per outage
            self._available = False
            log.warning("%s", problem)

    def pending(self) -> int:
        """Rings that no worker has taken. Raises QueueUnavailable."""
        return self._huey.pending_count()


class ChoreQueue:
    """Background tasks on Huey's consumer, in threads of this process. Queues of different names run independently."""

    def __init__(self, url: str, name: str = "chores") -> None:
        self._huey = open_huey(url, name)
        self._consumer: Any = None

    def add_periodic(self, name: str, chore: Callable[[], None], hours: int) -> None:
        """Run ``chore`` at start and every ``hours`` hours."""

        def run() -> None:
            chore()

        task = self._huey.periodic_task(crontab(minute="17", hour=f"*/{hours}"), name=name)(run)
        send_or_log(task)

    def add_on_demand(self, name: str, work: Callable[[], None]) -> Callable[[], None]:
        """Declare a task; calling the returned function schedules it to run soon."""

        def run() -> None:
            work()

        declared = self._huey.task(name=name)(run)
        return lambda: send_or_log(declared)

    def start(self) -> None:
        """Start the consumer. It installs SIGINT and SIGTERM handlers, so the process must set its own afterwards."""
        self._consumer = self._huey.create_consumer(workers=1, shutdown_timeout=CHORE_STOP_SECONDS)
        self._consumer.start()

    def stop(self) -> None:
        """Finish the current chore and start no other."""
        if self._consumer is not None:
            self._consumer.stop(graceful=True)


def send_or_log(send: Callable[[], object]) -> None:
    """Send a message, or log that the queue is unavailable: the work is in its table, where a later poll finds it."""
    try:
        send()
    except QueueUnavailable as problem:
        log.warning("a chore's message was lost: %s", problem)


def ring() -> None:
    """The ring task. It does nothing, since its arrival alone wakes the worker."""
