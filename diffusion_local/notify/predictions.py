"""Predictions as cog and Replicate tell them: what a call is answered with, and what its webhook hears."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from diffusion_local.domain import Batch, Image, Job, State

MOST_JOBS = 1000
#: What Replicate calls the events that there are here.
EVENTS = {"batch.started": "start", "batch.done": "completed"}
FILTER = ("start", "output", "logs", "completed")


@dataclass(frozen=True, slots=True)
class Subscription:
    """Under which id a prediction is known, the address of the server as its client knows it, and what is told."""

    id: str
    root: str
    events: tuple[str, ...] = FILTER

    @classmethod
    def of(cls, batch: Batch) -> "Subscription":
        """What was said as the batch was submitted; its own id where the client chose none."""
        told = json.loads(batch.prediction)
        return cls(told["id"] or batch.id, told["root"], tuple(told["events"]))

    def text(self) -> str:
        return json.dumps(asdict(self))


def prediction(
    subscription: Subscription, batch: Batch, jobs: Sequence[Job], images: Mapping[str, Image]
) -> dict[str, Any]:
    """A batch as a prediction; ``output`` and times of its end once all its jobs have ended."""
    ended = [job.finished_at for job in jobs if job.finished_at]
    finished = len(ended) == len(jobs)
    failed = next((job for job in jobs if job.failure and job.state is State.FAILED), None)
    url = f"{subscription.root}/predictions/{quote(subscription.id, safe='')}"
    output = [
        f"{subscription.root}/images/{images[job.id].id}{images[job.id].suffix}" for job in jobs if job.id in images
    ]
    return {
        "id": subscription.id,
        "status": status(jobs),
        "input": asdict(jobs[0].params) | {"count": len(jobs)},
        "output": output if finished and output else None,
        "error": failed.failure.message if failed and failed.failure else None,
        "logs": "",
        "metrics": {"predict_time": sum(image.seconds for image in images.values())},
        "created_at": batch.created_at,
        "started_at": min((job.started_at for job in jobs if job.started_at), default=None),
        "completed_at": max(ended) if finished else None,
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }


def started(subscription: Subscription, batch: Batch, jobs: Sequence[Job]) -> dict[str, Any]:
    """As it was when its first picture began, whatever has become of it."""
    told = prediction(subscription, batch, jobs, {})
    return told | {"status": "processing", "output": None, "error": None, "metrics": {}, "completed_at": None}


def status(jobs: Sequence[Job]) -> str:
    states = {job.state for job in jobs}
    if states == {State.QUEUED}:
        return "starting"
    if states & {State.QUEUED, State.RUNNING}:
        return "processing"
    if State.FAILED in states:
        return "failed"
    return "canceled" if State.CANCELLED in states else "succeeded"
