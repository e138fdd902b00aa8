"""ComfyUI's events at ``/ws``: progress of the caller's prompts, previews, and the number of waiting ones.

A socket gets events of prompts submitted with its ``clientId``. One ``Watch`` polls the queue for all sockets. A client
that does not read is disconnected, as is one that loses its permission.
"""

import contextlib
import io
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
from fastapi import WebSocket, WebSocketDisconnect
from PIL import Image as PIL

from diffusion_local import image_decoding
from diffusion_local.actor import current
from diffusion_local.domain import Job, State, new_id
from diffusion_local.errors import NotFound, Overloaded
from diffusion_local.studio import Studio
from diffusion_local.web.api.dialects.comfyui import records
from diffusion_local.web.api.dialects.comfyui.records import Record
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.authentication import STILL_KEY

MOST_OF_ACCOUNT = 50
MAX_SOCKETS = 500
SEND_SECONDS = 10.0  # time-out of one message
RECHECK_SECONDS = 10.0
MOST_NEW = 50  # prompts between two reads of the queue
MOST_RECEIVED = 100  # messages from one client, all of which are ignored
PREVIEW, JPEG = 1, 1  # ComfyUI's numbers for this kind of binary message and this format
POLICY_VIOLATION, TRY_AGAIN_LATER, GOING_AWAY = 1008, 1013, 1001

SocketEvent = dict[str, Any] | bytes


@dataclass(slots=True)
class Followed:
    """A prompt, and the state last sent."""

    record: Record
    started: bool = False
    steps: dict[str, int] = field(default_factory=dict)  # by running job


class Endpoint:
    """Used in a single event loop."""

    def __init__(self, studio: Studio, watch: Watch) -> None:
        self._studio = studio
        self._watch = watch
        self._open: Counter[str] = Counter()  # sockets by account

    async def serve(self, socket: WebSocket) -> None:
        with self._counted() as admitted:
            if not admitted:
                await socket.close(TRY_AGAIN_LATER)
                return
            await socket.accept()
            events = Events(self._studio, socket.query_params.get("clientId", "")[:100] or new_id())
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(watch_disconnect, socket, tasks.cancel_scope)
                    await self._follow(socket, events)
                    tasks.cancel_scope.cancel()

    async def _follow(self, socket: WebSocket, events: "Events") -> None:
        seen, still = (-1, -1), socket.scope[STILL_KEY]
        checked = anyio.current_time()
        while True:
            if anyio.current_time() - checked >= RECHECK_SECONDS:
                checked = anyio.current_time()
                if not await still():
                    await socket.close(POLICY_VIOLATION)
                    return
            for event in await anyio.to_thread.run_sync(events.next_events):
                if not await send(socket, event):
                    return
            moment = await self._watch.until(lambda now, seen=seen: now != seen, RECHECK_SECONDS)  # type: ignore[misc]
            seen = moment or seen
            if self._watch.stopping():
                await socket.close(GOING_AWAY)
                return

    @contextlib.contextmanager
    def _counted(self) -> Iterator[bool]:
        name = current().name
        admitted = self._open[name] < MOST_OF_ACCOUNT and self._open.total() < MAX_SOCKETS
        if not admitted:
            yield False
            return
        self._open[name] += 1
        try:
            yield True
        finally:
            self._open[name] -= 1


async def watch_disconnect(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Discard the client's messages until it disconnects; disconnect it after MOST_RECEIVED of them."""
    for _ in range(MOST_RECEIVED):
        if (await socket.receive())["type"] == "websocket.disconnect":
            break
    else:
        await socket.close(POLICY_VIOLATION)
    scope.cancel()


async def send(socket: WebSocket, event: SocketEvent) -> bool:
    """Send a message; returns whether the client accepted it in time."""
    with anyio.move_on_after(SEND_SECONDS) as limit:
        await (socket.send_bytes(event) if isinstance(event, bytes) else socket.send_json(event))
    return not limit.cancelled_caught


class Events:
    """Events for one client, found by comparing the queue with the state last sent."""

    def __init__(self, studio: Studio, client_id: str) -> None:
        self._studio = studio
        self._client_id = client_id
        self._left: int | None = None
        self._followed: dict[str, Followed] = {}  # by batch
        self._known: set[str] = set()  # batches, including other clients'

    def next_events(self) -> list[SocketEvent]:
        """Events since the last call. A prompt that started and ended meanwhile is reported from its start."""
        newest = self._studio.graphs.page(MOST_NEW)  # read first: a prompt that is then not unfinished has ended
        unfinished = {graph.batch_id: graph for graph in self._studio.graphs.unfinished()}
        if self._left is None:  # first call: prompts that had ended before are not reported
            self._known = {graph.batch_id for graph in newest} - unfinished.keys()
        graphs = {graph.batch_id: graph for graph in newest} | unfinished
        for batch_id in sorted(graphs.keys() - self._known):
            each = records.from_json(graphs[batch_id])
            if each.client_id == self._client_id:
                self._followed[batch_id] = Followed(each)
        self._known = set(graphs)
        events: list[SocketEvent] = []
        if len(unfinished) != self._left:
            events.append(self._status(len(unfinished)))
        for batch_id, followed in list(self._followed.items()):
            events += self._events_of(followed)
            if batch_id not in unfinished:
                events += self._end(followed)
                del self._followed[batch_id]
        return events

    def _status(self, left: int) -> SocketEvent:
        data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": left}}}
        if self._left is None:
            data["sid"] = self._client_id
        self._left = left
        return {"type": "status", "data": data}

    def _events_of(self, followed: Followed) -> list[SocketEvent]:
        """Start, steps and previews of a prompt."""
        jobs = records.jobs_of(self._studio, followed.record)
        events: list[SocketEvent] = []
        if not followed.started and any(job.state is not State.QUEUED for job in jobs):
            followed.started = True
            events += self._start(followed.record, jobs)
        for job in jobs:
            if job.state is State.RUNNING and job.step and followed.steps.get(job.id) != job.step:
                followed.steps[job.id] = job.step
                events.append(self._progress(followed.record, job))
                events += self._preview(job)
        return events

    def _start(self, record: Record, jobs: list[Job]) -> list[SocketEvent]:
        started = min((job.started_at for job in jobs if job.started_at), default=record.created_at)
        head = {"prompt_id": record.id, "timestamp": records.milliseconds(started)}
        return [
            {"type": "execution_start", "data": head},
            {"type": "execution_cached", "data": head | {"nodes": []}},
            executing(record, record.worker),
        ]

    def _progress(self, record: Record, job: Job) -> SocketEvent:
        data = {"value": job.step, "max": job.params.total_steps, "prompt_id": record.id, "node": record.worker}
        return {"type": "progress", "data": data}

    def _preview(self, job: Job) -> list[SocketEvent]:
        """A job's newest preview as JPEG, preceded by ComfyUI's header."""
        try:
            data = self._studio.preview_file(job.id).read_bytes()
            file = io.BytesIO()
            with PIL.open(io.BytesIO(data)) as picture, image_decoding.share(picture):
                picture.convert("RGB").save(file, "JPEG", quality=90)
        except (NotFound, Overloaded, OSError):  # there is none yet, or the job has ended meanwhile
            return []
        return [struct.pack(">II", PREVIEW, JPEG) + file.getvalue()]

    def _end(self, followed: Followed) -> list[SocketEvent]:
        record = followed.record
        ended = records.history_entry(self._studio, record)
        events: list[SocketEvent] = [] if followed.started else self._start(record, [])
        for node, output in ended["outputs"].items():
            data = {"node": node, "display_node": node, "output": output, "prompt_id": record.id}
            events.append({"type": "executed", "data": data})
        kind, data = ended["status"]["messages"][-1]
        if kind == "execution_success":
            return [*events, executing(record, None), {"type": kind, "data": data}]
        return [*events, {"type": kind, "data": data}, executing(record, None)]


def executing(record: Record, node: str | None) -> SocketEvent:
    return {"type": "executing", "data": {"node": node, "display_node": node, "prompt_id": record.id}}
