"""Server-sent events (HTML standard, section 9.2) that follow a job, a batch or the queue.

Each state change has its number in ``job_events`` as ``id``, so a client that reconnects with ``Last-Event-ID`` misses
nothing; a client that has received the end gets 204 and does not reconnect. Progress has no ``id``, because only the
newest matters. ``long_lived`` adds heartbeats, and ends a stream when its caller loses permission.
"""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from diffusion_local import serializers
from diffusion_local.domain import Event
from diffusion_local.studio import Studio
from diffusion_local.web.api.http_headers import EVENT_STREAM_HEADERS, REVALIDATE
from diffusion_local.web.api.watch import (
    EVENTS_PER_LOOK,
    MAX_REVISION,
    EventSource,
    FollowEvent,
    JobEvents,
    QueueEvents,
    Watch,
    news_of,
)

VARIES = REVALIDATE | {"Vary": "Accept"}
After = Annotated[int, Query(ge=0, le=MAX_REVISION, description="the last `number` that was seen")]
Limit = Annotated[int, Query(ge=1, le=EVENTS_PER_LOOK)]
LastId = Annotated[str | None, Header(alias="Last-Event-ID", description="the last `id` that was seen")]


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
        """`state` and `progress` events of a job as they occur, and `end` with the whole job."""
        return await followed(watch, JobEvents(studio, last_event_id, job_id=job_id), last_event_id)

    @streams.get("/batches/{batch_id}/stream", response_class=StreamingResponse)
    async def batch_stream(batch_id: str, last_event_id: LastId = None) -> Response:
        """`state` and `progress` events of a batch's jobs as they occur, and `end` with the batch."""
        return await followed(watch, JobEvents(studio, last_event_id, batch_id=batch_id), last_event_id)

    @streams.get("/queue/stream", response_class=StreamingResponse)
    async def queue_stream(last_event_id: LastId = None) -> Response:
        """`state` events of all jobs from now on (or after `Last-Event-ID`), and `queue` with the counts; endless."""
        return await followed(watch, QueueEvents(studio, last_event_id), last_event_id)

    @streams.get("/jobs/{job_id}/events", responses=HISTORY)
    async def job_events(job_id: str, request: Request, last_event_id: LastId = None) -> Response:
        """Events of a job, oldest first."""
        if wants_stream(request):
            return await job_stream(job_id, last_event_id)
        found = await anyio.to_thread.run_sync(studio.events, job_id)
        return JSONResponse({"events": [serializers.event(each) for each in found]}, headers=VARIES)

    @streams.get("/batches/{batch_id}/events", responses=HISTORY)
    async def batch_events(
        batch_id: str, request: Request, after: After = 0, limit: Limit = EVENTS_PER_LOOK, last_event_id: LastId = None
    ) -> Response:
        """Events of a batch's jobs, oldest first: give `next` as `after` to read on."""
        if wants_stream(request):
            return await batch_stream(batch_id, last_event_id)
        await anyio.to_thread.run_sync(studio.batch, batch_id)
        return history(await anyio.to_thread.run_sync(studio.events_after, after, None, batch_id, limit), limit)

    @streams.get("/queue/events", responses=HISTORY)
    async def queue_events(
        request: Request, after: After = 0, limit: Limit = EVENTS_PER_LOOK, last_event_id: LastId = None
    ) -> Response:
        """Events of all listed jobs, oldest first: give `next` as `after` to read on."""
        if wants_stream(request):
            return await queue_stream(last_event_id)
        return history(await anyio.to_thread.run_sync(studio.events_after, after, None, None, limit), limit)

    return streams


def wants_stream(request: Request) -> bool:
    kinds = (each.partition(";")[0].strip().lower() for each in request.headers.get("Accept", "").split(","))
    return "text/event-stream" in kinds


def history(events: list[tuple[int, Event]], limit: int) -> JSONResponse:
    events_json = [{"number": number} | serializers.event(event) for number, event in events]
    following = events[-1][0] if len(events) == limit else None
    return JSONResponse({"events": events_json, "next": following}, headers=VARIES)


async def followed(watch: Watch, source: EventSource, last_id: str | None) -> Response:
    """The stream of a source. Raises for an unknown source, and returns 204 for a finished one, before it begins."""
    before = source.number
    news, ended = await anyio.to_thread.run_sync(source.poll)
    if ended and last_id is not None and source.number == before:
        return Response(status_code=204)
    return StreamingResponse(
        events(watch, source, news, ended), media_type="text/event-stream", headers=EVENT_STREAM_HEADERS
    )


async def events(watch: Watch, source: EventSource, news: list[FollowEvent], ended: bool) -> AsyncIterator[str]:
    yield "retry: 2000\n\n" + "".join(map(framed, news))
    if not ended:
        async for later in news_of(watch, source):
            yield "".join(map(framed, later))


def framed(news: FollowEvent) -> str:
    """Format a server-sent event; JSON has no line breaks, so one ``data`` line is enough."""
    head = f"id: {news.number}\n" if news.number is not None else ""
    return f"{head}event: {news.event}\ndata: {json.dumps(news.data)}\n\n"
