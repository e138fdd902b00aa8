"""Polls the database on behalf of all who wait for changes: callers of ``wait``, and event streams.

Waiting is a coroutine, so any number of callers can wait without holding a thread.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import anyio.to_thread
from fastapi import Request

from diffusion_local.studio import POLL_SECONDS, Studio

GONE_SECONDS = 1.0  # between two checks whether a waiting caller is still connected

Moment = tuple[int, int]  # revision, number of the newest event


class Waiters:
    """The waiters of one event loop, each with its condition."""

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[Moment | None], Callable[[Moment], bool]] = {}
        self.looking: asyncio.Task[None] | None = None


class Watch:
    """Polls every POLL_SECONDS while somebody waits, and never otherwise."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lines: dict[asyncio.AbstractEventLoop, Waiters] = {}
        #: Whether the server is shutting down, which ends every wait.
        self.stopping: Callable[[], bool] = lambda: False

    async def until(self, wanted: Callable[[Moment], bool], timeout: float) -> Moment | None:
        """Wait for the first moment that satisfies ``wanted``; None if time is up (seconds) or the server stops."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = Waiters()
        future: asyncio.Future[Moment | None] = loop.create_future()
        line.waiting[future] = wanted
        if line.looking is None:
            line.looking = loop.create_task(self._look(loop, line))
        try:
            await asyncio.wait([future], timeout=None if timeout == math.inf else timeout)
            return future.result() if future.done() else None
        finally:
            del line.waiting[future]

    async def _look(self, loop: asyncio.AbstractEventLoop, line: Waiters) -> None:
        while line.waiting:
            moment, problem = None, None
            try:
                moment = None if self.stopping() else await anyio.to_thread.run_sync(self._studio.moment)
            except Exception as error:  # of the database: raised in every waiter
                problem = error
            for future, wanted in line.waiting.items():
                if future.done():
                    continue
                if problem is not None:
                    future.set_exception(problem)
                elif moment is None or wanted(moment):
                    future.set_result(moment)
            await asyncio.sleep(POLL_SECONDS)
        del self._lines[loop]


async def until_final(
    studio: Studio, watch: Watch, job_ids: Sequence[str], timeout: float, request: Request | None = None
) -> bool:
    """Whether all jobs ended within ``timeout`` seconds. Their work continues either way.

    Reads the jobs only when one has changed its state; returns early if the server stops, or the caller of ``request``
    has disconnected.
    """
    deadline = time.monotonic() + timeout
    left = await anyio.to_thread.run_sync(studio.unfinished, job_ids)
    seen = -1
    while left:
        seconds = deadline - time.monotonic()
        if seconds <= 0 or watch.stopping() or (request is not None and await request.is_disconnected()):
            return False
        moment = await watch.until(lambda now, seen=seen: now[1] != seen, min(seconds, GONE_SECONDS))  # type: ignore[misc]
        if moment is not None:
            seen = moment[1]
            left = await anyio.to_thread.run_sync(studio.unfinished, left)
    return True


async def until(watch: Watch, done: Callable[[], bool], timeout: float, request: Request | None = None) -> bool:
    """Whether ``done`` became true within ``timeout`` seconds; it is evaluated at every change. Returns early like
    ``until_final``.
    """
    deadline, seen = time.monotonic() + timeout, (-1, -1)
    while not await anyio.to_thread.run_sync(done):
        moment = None
        while moment is None:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or watch.stopping() or (request is not None and await request.is_disconnected()):
                return False
            moment = await watch.until(lambda now, seen=seen: now != seen, min(seconds, GONE_SECONDS))  # type: ignore[misc]
        seen = moment
    return True
