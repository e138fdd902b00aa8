"""Predictions in the format of cog and Replicate: responses, and messages to their webhooks."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from diffusion_local.domain import Batch, Image, Job, State

MOST_JOBS = 1000
#: Replicate's names of our events.
WEBHOOK_EVENTS = {"batch.started": "start", "batch.done": "completed"}
FILTER = ("start", "output", "logs", "completed")


#: Owner name for models that are not from a hub.
OWNER = "local"
BAR = 10  # characters


@dataclass(frozen=True, slots=True)
class Subscription:
    """A prediction's public id, the server's address as its client knows it, the events that its webhook receives, and
    log lines about adapted or ignored inputs.
    """

    id: str
    root: str
    events: tuple[str, ...] = FILTER
    notes: tuple[str, ...] = ()

    @classmethod
    def of_batch(cls, batch: Batch) -> "Subscription":
        """The subscription stored with a batch; the id defaults to the batch's."""
        stored = json.loads(batch.prediction)
        return cls(stored["id"] or batch.id, stored["root"], tuple(stored["events"]), tuple(stored.get("notes", ())))

    def text(self) -> str:
        return json.dumps(asdict(self))


def full_name(model_id: str, hub_id: str = "") -> str:
    """A model's name in the form ``owner/name``."""
    return hub_id if "/" in hub_id else f"{OWNER}/{model_id}"


def version_of(model_id: str) -> str:
    """Id of a model's only version: 64 hexadecimal digits, always the same."""
    return sha256(model_id.encode("utf-8", "replace")).hexdigest()


def prediction(
    subscription: Subscription,
    batch: Batch,
    jobs: Sequence[Job],
    images: Mapping[str, Image],
    address: Callable[[Image], str],
) -> dict[str, Any]:
    """A batch as a prediction; ``output`` and the end times are set once all its jobs have ended.

    ``address``: returns a picture's absolute address.
    """
    ended = [job.finished_at for job in jobs if job.finished_at]
    finished = len(ended) == len(jobs)
    failed = next((job for job in jobs if job.failure and job.state is State.FAILED), None)
    url = f"{subscription.root}/predictions/{quote(subscription.id, safe='')}"
    output = [address(images[job.id]) for job in jobs if job.id in images]
    model = jobs[0].params.model
    return {
        "id": subscription.id,
        "model": full_name(model),
        "version": version_of(model),
        "status": status(jobs),
        "input": asdict(jobs[0].params) | {"count": len(jobs)},
        "output": output if finished and output else None,
        "error": failed.failure.message if failed and failed.failure else None,
        "logs": "".join(f"{line}\n" for line in [*subscription.notes, progress(jobs)]),
        "metrics": {"predict_time": sum(image.seconds for image in images.values())},
        "created_at": batch.created_at,
        "started_at": min((job.started_at for job in jobs if job.started_at), default=None),
        "completed_at": max(ended) if finished else None,
        "urls": {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/stream"},
        "data_removed": False,
        "source": "api",
    }


def progress(jobs: Sequence[Job]) -> str:
    """Progress as tqdm prints it: Replicate's clients parse it from the log."""
    total = sum(job.params.total_steps for job in jobs)
    done = sum(
        job.params.total_steps if job.state is State.DONE else min(job.step, job.params.total_steps) for job in jobs
    )
    filled = BAR * done // total
    return f"{100 * done // total}%|{'█' * filled}{' ' * (BAR - filled)}| {done}/{total}"


def started_prediction(subscription: Subscription, batch: Batch, jobs: Sequence[Job]) -> dict[str, Any]:
    """The prediction as it was when its first picture started, regardless of its current state."""
    content = prediction(subscription, batch, jobs, {}, lambda image: "")
    return content | {
        "status": "processing",
        "output": None,
        "error": None,
        "metrics": {},
        "completed_at": None,
        "logs": "",
    }


def status(jobs: Sequence[Job]) -> str:
    states = {job.state for job in jobs}
    if states == {State.QUEUED}:
        return "starting"
    if states & {State.QUEUED, State.RUNNING}:
        return "processing"
    if State.FAILED in states:
        return "failed"
    return "canceled" if State.CANCELLED in states else "succeeded"
