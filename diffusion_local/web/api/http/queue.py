"""The queue as a whole."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from diffusion_local import shapes
from diffusion_local.studio import Studio
from diffusion_local.web.api.answers import tagged
from diffusion_local.web.api.fields import Hold


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

    return queue
