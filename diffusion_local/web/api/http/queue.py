"""The queue as a whole: what it does, when it may, and as a file."""

from dataclasses import asdict
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from diffusion_local import shapes
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import tagged
from diffusion_local.web.api.fields import Hold, Window

BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {"requestBody": {"required": True, "content": {"application/jsonl": BINARY}}}


def router(studio: Studio) -> APIRouter:
    queue = APIRouter(tags=["queue"])

    @queue.get("/queue")
    def snapshot(request: Request) -> Response:
        """What runs, waits and ended last; counts, workers, estimate."""
        return tagged(request, shapes.queue(studio.snapshot()))

    @queue.post("/queue/pause")
    def pause(body: Hold | None = None) -> dict[str, Any]:
        """Start no further picture until the queue is resumed; kept over restarts."""
        studio.pause(give_back=body is not None and body.give_back)
        return {"paused": True}

    @queue.post("/queue/resume")
    def resume() -> dict[str, Any]:
        studio.resume()
        return {"paused": False}

    @queue.post("/queue/stay-awake")
    def stay_awake() -> dict[str, Any]:
        """Let the machine not go to sleep, or off, as `sleep_at` of the queue announces."""
        studio.stay_awake()
        return {"sleep_at": ""}

    @queue.put("/queue/window")
    def set_window(body: Window) -> dict[str, Any]:
        """Start pictures of the batch lane in these hours only; empty is always. Interactive work runs at any time."""
        return {"window": studio.set_window(body.window)}

    @queue.get("/queue/file", response_class=StreamingResponse)
    def queue_file() -> Response:
        """All that waits, with its batches, as a file that another machine's `/queue/import` reads."""
        headers = {"Content-Disposition": 'attachment; filename="queue.jsonl"', "Cache-Control": "no-store"}
        return StreamingResponse(studio.queue_file.export(), media_type="application/jsonl", headers=headers)

    @queue.post("/queue/import", status_code=202, openapi_extra=BODY)
    async def import_queue(request: Request, skip_bad_lines: bool = False) -> JSONResponse:
        """Enqueue what such a file holds; sent twice it makes nothing twice."""
        data = await request.body()
        await anyio.to_thread.run_sync(studio.check_open)
        receipt = await anyio.to_thread.run_sync(lambda: studio.queue_file.take(data, skip_bad_lines))
        return JSONResponse(asdict(receipt), 202)

    return queue
