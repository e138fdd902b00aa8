"""Ringing for workers and running chores, over the queues of ``doorbell``. A ring says "look into the jobs table"."""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from huey import crontab

from diffusion_local.errors import QueueUnavailable
from diffusion_local.queue.huey_backends import open_huey

log = logging.getLogger(__name__)

#: Idle seconds between two looks for a ring where the backend cannot wait for one: half of them, on average, are an
#: idle worker's start latency.
POLL_SECONDS = 0.03
#: Seconds for which a queue that failed is left alone: by a submit, which must not wait for it each time, and by an
#: idle worker.
REST_SECONDS = 1.0
#: A submit rings at most so often: enough to wake every worker of one machine.
MOST_RINGS = 16
CHORE_STOP_SECONDS = 5


class JobQueue(Protocol):
    def ring(self, times: int = 1) -> None:
        """Wake as many workers. Losing it costs seconds, never a job."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most about so long; whether one came. Raises nothing while the queue is away."""
        ...


class HueyQueue:
    """Rings as Huey tasks."""

    def __init__(self, url: str) -> None:
        """See ``open_huey``."""
        self._huey = open_huey(url, "doorbell")
        # Huey names a task by its function's module: declared here, the name is the same in every process.
        self._ring = self._huey.task(name="ring")(ring)
        self._resting_until = float("-inf")
        self._available = True

    def ring(self, times: int = 1) -> None:
        if time.monotonic() < self._resting_until:
            return
        try:
            # As many as wake every worker; rings that nobody hears must not pile up where no worker runs.
            for _ in range(min(times, MOST_RINGS - self.waiting())):
                self._ring()
        except QueueUnavailable as problem:  # what was rung for is in the table, and is found by the next look
            self._rest(problem)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._take():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if not self._available:
                time.sleep(min(left, REST_SECONDS))
            elif not self._huey.storage.blocking:
                time.sleep(min(left, POLL_SECONDS))
        return True

    def _take(self) -> bool:
        """Whether there was a ring, after a moment if the backend can wait for one. A message that cannot be read
        counts as a ring."""
        try:
            task = self._huey.dequeue()
            if not self._available:
                self._available = True
                log.info("the message queue can be used again")
            if task is None:
                return False
            self._huey.execute(task)
        except QueueUnavailable as problem:
            self._rest(problem)
            return False
        except Exception as error:
            log.warning("a message that cannot be read was dropped: %r", error)
        return True

    def _rest(self, problem: QueueUnavailable) -> None:
        self._resting_until = time.monotonic() + REST_SECONDS
        if self._available:  # said once, however often it is tried
            self._available = False
            log.warning("%s", problem)

    def waiting(self) -> int:
        """Rings that no worker has taken. Raises QueueUnavailable."""
        return self._huey.pending_count()


class ChoreQueue:
    """Tasks on Huey's own consumer, in threads of the calling process; queues of another name do not wait for it."""

    def __init__(self, url: str, name: str = "chores") -> None:
        self._huey = open_huey(url, name)
        self._consumer: Any = None

    def add(self, name: str, chore: Callable[[], None], hours: int) -> None:
        """Run ``chore`` now, once started, and each ``hours`` hours."""

        def run() -> None:
            chore()

        task = self._huey.periodic_task(crontab(minute="17", hour=f"*/{hours}"), name=name)(run)
        attempt(task)

    def add_rung(self, name: str, work: Callable[[], None]) -> Callable[[], None]:
        """A task that runs soon whenever the function that is returned is called."""

        def run() -> None:
            work()

        declared = self._huey.task(name=name)(run)
        return lambda: attempt(declared)

    def start(self) -> None:
        """Takes SIGINT and SIGTERM, as every Huey consumer does: set the process's own handlers after this."""
        self._consumer = self._huey.create_consumer(workers=1, shutdown_timeout=CHORE_STOP_SECONDS)
        self._consumer.start()

    def stop(self) -> None:
        """Let the chore in hand end, and start no other."""
        if self._consumer is not None:
            self._consumer.stop(graceful=True)


def attempt(send: Callable[[], object]) -> None:
    """Send a message, unless the queue is away: the work is in its table, and a later look finds it."""
    try:
        send()
    except QueueUnavailable as problem:
        log.warning("a chore's message was lost: %s", problem)


def ring() -> None:
    """The doorbell's task; that it ran is all it says."""
