"""Server-sent events: a job, a batch or the queue, followed as it changes.

By the HTML standard (section 9.2): each change of a state has its number in ``job_events`` as ``id``, so that a
client that reconnects with ``Last-Event-ID`` misses nothing; a client that has seen the end gets 204 and stays away.
Progress has no ``id``, since only the newest matters. Heartbeats, and the end of a stream whose caller may no longer
read it, come from ``long_lived``.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from diffusion_local import shapes
from diffusion_local.domain import Event
from diffusion_local.errors import NotFound, UserError
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import REVALIDATE
from diffusion_local.web.api.http.batches import batch_shape
from diffusion_local.web.api.watch import Watch

PAGE = 500  # events in one look
LARGEST = 2**63 - 1
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
VARIES = REVALIDATE | {"Vary": "Accept"}
After = Annotated[int, Query(ge=0, le=LARGEST, description="the last `number` that was seen")]
Limit = Annotated[int, Query(ge=1, le=PAGE)]
LastId = Annotated[str | None, Header(alias="Last-Event-ID", description="the last `id` that was seen")]


class Source(Protocol):
    """What a stream is about; ``look`` gives what is new, and whether that was the end."""

    seconds: float  # between two looks
    number: int
    more: bool  # events were left for the next look

    def look(self) -> "tuple[list[News], bool]": ...


@dataclass(frozen=True, slots=True)
class News:
    """One event; those that a client can resume behind have a number."""

    event: str
    data: shapes.Json
    number: int | None = None

    def __str__(self) -> str:
        """As server-sent event; JSON has no line breaks."""
        head = f"id: {self.number}\n" if self.number is not None else ""
        return f"{head}event: {self.event}\ndata: {json.dumps(self.data)}\n\n"


HISTORY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the history, or with `Accept: text/event-stream` what `/stream` beside it sends",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def router(studio: Studio, watch: Watch) -> APIRouter:
    streams = APIRouter(tags=["streams"])

    @streams.get("/jobs/{job_id}/stream", response_class=StreamingResponse)
    async def job_stream(job_id: str, last_event_id: LastId = None) -> Response:
        """`state` and `progress` events of a job as they come, and `end` with the whole job."""
        return await followed(watch, Followed(studio, last_event_id, job_id=job_id), last_event_id)

    @streams.get("/batches/{batch_id}/stream", response_class=StreamingResponse)
    async def batch_stream(batch_id: str, last_event_id: LastId = None) -> Response:
        """`state` and `progress` events of a batch's jobs as they come, and `end` with the batch."""
        return await followed(watch, Followed(studio, last_event_id, batch_id=batch_id), last_event_id)

    @streams.get("/queue/stream", response_class=StreamingResponse)
    async def queue_stream(last_event_id: LastId = None) -> Response:
        """`state` events of all jobs from now on (or after `Last-Event-ID`), and `queue` with the counts; endless."""
        return await followed(watch, Everything(studio, last_event_id), last_event_id)

    @streams.get("/jobs/{job_id}/events", responses=HISTORY)
    async def job_events(job_id: str, request: Request, last_event_id: LastId = None) -> Response:
        """What happened to a job, oldest first."""
        if wants_stream(request):
            return await job_stream(job_id, last_event_id)
        found = await anyio.to_thread.run_sync(studio.events, job_id)
        return JSONResponse({"events": [shapes.event(each) for each in found]}, headers=VARIES)

    @streams.get("/batches/{batch_id}/events", responses=HISTORY)
    async def batch_events(
        batch_id: str, request: Request, after: After = 0, limit: Limit = PAGE, last_event_id: LastId = None
    ) -> Response:
        """What happened to a batch's jobs, oldest first: give `next` as `after` to read on."""
        if wants_stream(request):
            return await batch_stream(batch_id, last_event_id)
        await anyio.to_thread.run_sync(studio.batch, batch_id)
        return history(await anyio.to_thread.run_sync(studio.events_after, after, None, batch_id, limit), limit)

    @streams.get("/queue/events", responses=HISTORY)
    async def queue_events(
        request: Request, after: After = 0, limit: Limit = PAGE, last_event_id: LastId = None
    ) -> Response:
        """What happened to all jobs that are listed, oldest first: give `next` as `after` to read on."""
        if wants_stream(request):
            return await queue_stream(last_event_id)
        return history(await anyio.to_thread.run_sync(studio.events_after, after, None, None, limit), limit)

    return streams


def wants_stream(request: Request) -> bool:
    kinds = (each.partition(";")[0].strip().lower() for each in request.headers.get("Accept", "").split(","))
    return "text/event-stream" in kinds


def history(found: list[tuple[int, Event]], limit: int) -> JSONResponse:
    told = [{"number": number} | shapes.event(event) for number, event in found]
    following = found[-1][0] if len(found) == limit else None
    return JSONResponse({"events": told, "next": following}, headers=VARIES)


class Followed:
    """A job, or the jobs of a batch, until all have ended."""

    seconds = 0.2

    def __init__(self, studio: Studio, last_id: str | None, job_id: str = "", batch_id: str = "") -> None:
        self._studio = studio
        self._job_id = job_id
        self._batch_id = batch_id
        self._steps: dict[str, tuple[int, str]] = {}
        self.more = False
        self.number = number_of(last_id)

    def look(self) -> tuple[list[News], bool]:
        whole = self._whole()  # before the events: they then tell at least as much
        found = self._studio.events_after(self.number, self._job_id or None, self._batch_id or None, PAGE)
        news = []
        for self.number, event in found:
            news.append(News("state", shapes.event(event), self.number))
        self.more = len(found) == PAGE
        if self._job_id:
            ended = whole["finished_at"] is not None
            running = [] if ended or whole["state"] != "running" else [whole]
        else:
            ended = whole["finished"]
            running = [shapes.job(each) for each in self._studio.jobs("running", self._batch_id)]
        for each in running:
            news += self._progress(each)
        if ended and not self.more:
            return [*news, News("end", whole)], True
        return news, False

    def _whole(self) -> shapes.Json:
        if self._job_id:
            return shapes.one_job(self._studio, self._job_id)
        return batch_shape(self._studio, self._batch_id)

    def _progress(self, job: shapes.Json) -> list[News]:
        now = (job["step"], job["phase"])
        if self._steps.get(job["id"]) == now:
            return []
        self._steps[job["id"]] = now
        told = {"job_id": job["id"], "step": job["step"], "steps": job["steps"], "phase": job["phase"]}
        return [News("progress", told)]


class Everything:
    """All events of all jobs, and the counts whenever they change."""

    seconds = 0.5

    def __init__(self, studio: Studio, last_id: str | None) -> None:
        self._studio = studio
        self._counts: shapes.Json = {}
        self.more = False
        self.number = -1 if last_id is None else number_of(last_id)

    def look(self) -> tuple[list[News], bool]:
        if self.number < 0:
            self.number = self._studio.moment()[1]
        news = []
        found = self._studio.events_after(self.number, limit=PAGE)
        for self.number, event in found:
            news.append(News("state", shapes.event(event), self.number))
        self.more = len(found) == PAGE
        queue = shapes.queue(self._studio.snapshot(0, 0))
        counts = {name: queue[name] for name in ("paused", "reason", "counts")}
        if counts != self._counts:
            self._counts = counts
            news.append(News("queue", counts))
        return news, False


async def followed(watch: Watch, source: Source, last_id: str | None) -> Response:
    """The stream of a source. What is unknown or already over is said before it begins."""
    before = source.number
    news, ended = await anyio.to_thread.run_sync(source.look)
    if ended and last_id is not None and source.number == before:
        return Response(status_code=204)
    return StreamingResponse(events(watch, source, news, ended), media_type="text/event-stream", headers=HEADERS)


async def events(watch: Watch, source: Source, news: list[News], ended: bool) -> AsyncIterator[str]:
    yield "retry: 2000\n\n" + "".join(map(str, news))
    if not ended:
        async for later in news_of(watch, source):
            yield "".join(map(str, later))


async def news_of(watch: Watch, source: Source, deadline: float = math.inf) -> AsyncIterator[list[News]]:
    """What is new, until the end. Ends when the server stops, and at the ``deadline`` (by the monotonic clock)."""
    revision, ended = -1, False
    while not ended:
        try:
            left = max(0.0, deadline - time.monotonic())
            moment = await watch.until(lambda now, seen=revision: now[0] != seen, left)  # type: ignore[misc]
            if moment is None:  # the time is over, or the server stops
                return
            source.number = min(source.number, moment[1])  # jobs were deleted with their history: numbers come again
            news, ended = await anyio.to_thread.run_sync(source.look)
        except NotFound:
            return
        except UserError:  # the database, for a moment: the client's next connection will tell
            return
        revision = -1 if source.more else moment[0]
        if news:
            yield news
        await asyncio.sleep(source.seconds)


async def told_until_end(watch: Watch, source: Source, timeout: float) -> AsyncIterator[shapes.Json]:
    """Each event of a source as ``{"event", "data"}``, and ``timeout`` if the time is over before the end."""
    deadline = time.monotonic() + timeout
    news, ended = await anyio.to_thread.run_sync(source.look)
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
    """A ``Last-Event-ID`` as a number; what is none of ours starts from the beginning."""
    text = (last_id or "").strip()
    return min(int(text), LARGEST) if text.isascii() and text.isdigit() and len(text) < 20 else 0
