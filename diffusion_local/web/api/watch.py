"""Polls the database on behalf of all who wait for changes: callers of ``wait``, and event streams.

Waiting is a coroutine, so any number of callers can wait without holding a thread.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio.to_thread
from fastapi import Request

from diffusion_local import serializers
from diffusion_local.errors import NotFound, UserError
from diffusion_local.studio import POLL_SECONDS, Studio

GONE_SECONDS = 1.0  # between two checks whether a waiting caller is still connected

Moment = tuple[int, int]  # revision, number of the newest event


class Waiters:
    """The waiters of one event loop, each with its condition."""

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[Moment | None], Callable[[Moment], bool]] = {}
        self.polling: asyncio.Task[None] | None = None


class Watch:
    """Polls every POLL_SECONDS while somebody waits, and never otherwise."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lines: dict[asyncio.AbstractEventLoop, Waiters] = {}
        #: Whether the server is shutting down, which ends every wait.
        self.stopping: Callable[[], bool] = lambda: False

    async def until(self, condition: Callable[[Moment], bool], timeout: float) -> Moment | None:
        """Wait for the first moment that satisfies ``wanted``; None if time is up (seconds) or the server stops."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = Waiters()
        future: asyncio.Future[Moment | None] = loop.create_future()
        line.waiting[future] = condition
        if line.polling is None:
            line.polling = loop.create_task(self._poll(loop, line))
        try:
            await asyncio.wait([future], timeout=None if timeout == math.inf else timeout)
            return future.result() if future.done() else None
        finally:
            del line.waiting[future]

    async def _poll(self, loop: asyncio.AbstractEventLoop, waiters: Waiters) -> None:
        while waiters.waiting:
            moment, problem = None, None
            try:
                moment = None if self.stopping() else await anyio.to_thread.run_sync(self._studio.moment)
            except Exception as error:  # of the database: raised in every waiter
                problem = error
            for future, condition in waiters.waiting.items():
                if future.done():
                    continue
                if problem is not None:
                    future.set_exception(problem)
                elif moment is None or condition(moment):
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


EVENTS_PER_LOOK = 500
MAX_REVISION = 2**63 - 1


class EventSource(Protocol):
    """The subject of a stream. ``poll`` returns new events, and whether they end the stream."""

    seconds: float  # between two calls of poll
    number: int
    more: bool  # further events are left for the next call

    def poll(self) -> "tuple[list[FollowEvent], bool]": ...


@dataclass(frozen=True, slots=True)
class FollowEvent:
    """One event; those after which a client can resume have a number."""

    event: str
    data: serializers.Json
    number: int | None = None


class JobEvents:
    """Events of a job, or of the jobs of a batch, until all have ended."""

    seconds = 0.2

    def __init__(self, studio: Studio, last_id: str | None, job_id: str = "", batch_id: str = "") -> None:
        self._studio = studio
        self._job_id = job_id
        self._batch_id = batch_id
        self._steps: dict[str, tuple[int, str]] = {}
        self.more = False
        self.number = number_of(last_id)

    def poll(self) -> tuple[list[FollowEvent], bool]:
        whole = self._subject()  # read before the events, so that those are at least as recent
        events = self._studio.events_after(self.number, self._job_id or None, self._batch_id or None, EVENTS_PER_LOOK)
        news = []
        for self.number, event in events:
            news.append(FollowEvent("state", serializers.event(event), self.number))
        self.more = len(events) == EVENTS_PER_LOOK
        if self._job_id:
            ended = whole["finished_at"] is not None
            running = [] if ended or whole["state"] != "running" else [whole]
        else:
            ended = whole["finished"]
            running = [serializers.job(each) for each in self._studio.jobs("running", self._batch_id)]
        for each in running:
            news += self._progress(each)
        if ended and not self.more:
            return [*news, FollowEvent("end", whole)], True
        return news, False

    def _subject(self) -> serializers.Json:
        if self._job_id:
            return serializers.one_job(self._studio, self._job_id)
        return serializers.progress(self._studio.batches.get(self._batch_id))

    def _progress(self, job: serializers.Json) -> list[FollowEvent]:
        now = (job["step"], job["phase"])
        if self._steps.get(job["id"]) == now:
            return []
        self._steps[job["id"]] = now
        event = {"job_id": job["id"], "step": job["step"], "steps": job["steps"], "phase": job["phase"]}
        return [FollowEvent("progress", event)]


class QueueEvents:
    """All events of all jobs, and the counts whenever they change."""

    seconds = 0.5

    def __init__(self, studio: Studio, last_id: str | None) -> None:
        self._studio = studio
        self._counts: serializers.Json = {}
        self.more = False
        self.number = -1 if last_id is None else number_of(last_id)

    def poll(self) -> tuple[list[FollowEvent], bool]:
        if self.number < 0:
            self.number = self._studio.moment()[1]
        news = []
        found = self._studio.events_after(self.number, limit=EVENTS_PER_LOOK)
        for self.number, event in found:
            news.append(FollowEvent("state", serializers.event(event), self.number))
        self.more = len(found) == EVENTS_PER_LOOK
        queue = serializers.queue(self._studio.snapshot(0, 0))
        counts = {name: queue[name] for name in ("paused", "reason", "counts")}
        if counts != self._counts:
            self._counts = counts
            news.append(FollowEvent("queue", counts))
        return news, False


async def news_of(watch: Watch, source: EventSource, deadline: float = math.inf) -> AsyncIterator[list[FollowEvent]]:
    """New events until the end. Ends when the server stops, and at the ``deadline`` (monotonic clock)."""
    revision, ended = -1, False
    while not ended:
        try:
            left = max(0.0, deadline - time.monotonic())
            moment = await watch.until(lambda now, seen=revision: now[0] != seen, left)  # type: ignore[misc]
            if moment is None:  # time is up, or the server stops
                return
            source.number = min(source.number, moment[1])  # events are deleted with their jobs, so numbers may recur
            news, ended = await anyio.to_thread.run_sync(source.poll)
        except NotFound:
            return
        except UserError:  # the database is unavailable for now: the client will reconnect
            return
        revision = -1 if source.more else moment[0]
        if news:
            yield news
        await asyncio.sleep(source.seconds)


async def follow_until_end(watch: Watch, source: EventSource, timeout: float) -> AsyncIterator[serializers.Json]:
    """Each event of a source as ``{"event", "data"}``; ``timeout`` if time is up before the end."""
    deadline = time.monotonic() + timeout
    news, ended = await anyio.to_thread.run_sync(source.poll)
    for each in news:
        yield {"event": each.event, "data": each.data}
    if ended:
        return
    async for later in news_of(watch, source, deadline):
        for each in later:
            yield {"event": each.event, "data": each.data}
            if each.event == "end":
                return
    yield {"event": "timeout", "data": {}}


def number_of(last_id: str | None) -> int:
    """A ``Last-Event-ID`` as a number; 0, the beginning, if it is not one of ours."""
    text = (last_id or "").strip()
    return min(int(text), MAX_REVISION) if text.isascii() and text.isdigit() and len(text) < 20 else 0
