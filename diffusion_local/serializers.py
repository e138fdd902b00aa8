"""The JSON shapes that the API answers and the command line prints with ``--json``. Programs lean on these names."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import (
    Any,
    NotRequired,  # pydantic reads no other on Python 3.11
    Protocol,
)

from typing_extensions import TypedDict

from diffusion_local.domain import FINAL, Event, Failure, Image, Job, Receipt, Snapshot, Worker
from diffusion_local.engine.planning import MemoryPlan
from diffusion_local.hub.downloads import Download
from diffusion_local.messages import described
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import LOCAL_FIELDS, Model
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.queue.batches import BatchProgress

Json = dict[str, Any]
#: Failures whose detail begins with how the worker died.
DEATHS = ("worker_lost", "timed_out")

#: The query string that opens the picture at a path, without the prefix of a proxy; empty where none is needed.
Sign = Callable[[str], str]

_root: ContextVar[str] = ContextVar("root", default="")
_origin: ContextVar[str] = ContextVar("origin", default="")
_sign: ContextVar[Sign | None] = ContextVar("sign", default=None)


@contextmanager
def below(root: str, origin: str = "") -> Iterator[None]:
    """Inside, the addresses of files begin with the path under which a proxy serves us, and absolute ones with
    ``origin`` (scheme and host), by which the caller knows this server."""
    tokens = _root.set(root), _origin.set(origin)
    try:
        yield
    finally:
        _root.reset(tokens[0])
        _origin.reset(tokens[1])


@contextmanager
def signing(sign: Sign) -> Iterator[None]:
    """Inside, ``public_url`` is signed."""
    token = _sign.set(sign)
    try:
        yield
    finally:
        _sign.reset(token)


class JobFacts(Protocol):
    """What a job's shape is asked of: a Studio, here or on another machine."""

    def job(self, job_id: str) -> Job: ...

    def images_of(self, jobs: Sequence[Job]) -> dict[str, Image]: ...

    def places(self, jobs: Sequence[Job]) -> dict[str, tuple[int | None, float | None]]: ...


class SourcePicture(TypedDict):
    """A picture to begin from; sizes in pixels. ``recipe`` is what a file that was sent says of how it was made."""

    id: str
    width: int
    height: int
    url: str
    recipe: NotRequired[dict[str, Any] | None]


class Fault(TypedDict):
    """Why something was refused; ``field`` where one is to blame. ``id`` and ``params`` are what composes the message
    in another language; a message among the parameters is an object with ``id``, ``params`` and ``message``."""

    code: str
    message: str
    field: NotRequired[str]
    id: NotRequired[str]
    params: NotRequired[dict[str, Any]]
    errors: NotRequired[list["FieldFault"]]


class FieldFault(TypedDict):
    """One of several faults of a request."""

    field: str
    message: str
    id: NotRequired[str]
    params: NotRequired[dict[str, Any]]


def receipt(receipt: Receipt) -> Json:
    return asdict(receipt)


def fault(kind: str, problem: str) -> Json:
    """Why a job or a download failed."""
    return {"kind": kind, "message": problem, **described(problem)}


def job(job: Job, image: Image | None = None, position: int | None = None, eta: float | None = None) -> Json:
    """A job. ``position`` in line from 1, ``eta`` in seconds from now; both null where there is none."""
    return {
        "id": job.id,
        "batch_id": job.batch_id,
        "index": job.index,
        "state": str(job.state),
        "step": job.step,
        "steps": job.params.steps,
        "phase": job.phase,
        "position": position,
        "eta": None if eta is None else round(eta, 1),
        "attempt": job.attempt,
        "tries": job.tries,
        "not_before": job.not_before,
        "held": job.held,
        "gate": job.gate,
        "cancel_requested": job.cancel_requested,
        "worker": job.worker,
        "owner": job.owner,
        "hidden": job.hidden,
        "lane": str(job.lane),
        "priority": job.priority,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "from_job": job.from_job,
        "error": job.failure and fault_of(job.failure),
        "image": image and image_link(image),
        "params": params(job),
    }


def fault_of(failure: Failure) -> Json:
    """Why a job failed; with the ``cause`` where its worker died: the signal, and whether the memory was short."""
    cause = failure.detail.partition("\n")[0] if failure.kind in DEATHS else ""
    return fault(failure.kind, failure.message) | ({"cause": cause} if cause else {})


def params(owner: Job | Image) -> Json:
    values = asdict(owner.params)
    return values | {"kind": str(owner.params.kind), "loras": list(values["loras"])}


def image_link(image: Image) -> Json:
    """What a client needs to fetch the picture: ``url`` is relative to the server's root, ``public_url`` absolute."""
    return {
        "id": image.id,
        "url": file_url(image),
        "public_url": public_url(image),
        "thumbnail_url": thumbnail_url(image.id),
        "width": image.width,
        "height": image.height,
        "flag": image.flag,
    }


def image(image: Image) -> Json:
    return image_link(image) | {
        "job_id": image.job_id,
        "bytes": image.bytes,
        "seconds": round(image.seconds, 3),
        "starred": image.starred,
        "created_at": image.created_at,
        "trashed_at": image.trashed_at,
        "params": params(image),
    }


def file_url(image: Image) -> str:
    return picture_url(image.id, image.suffix)


def picture_url(image_id: str, suffix: str = ".png") -> str:
    return f"{_root.get()}/images/{image_id}{suffix}"


def public_url(image: Image) -> str:
    """An absolute address that opens the picture with a plain GET, for at most an hour where accounts are in use.

    Outside of a request it is relative.
    """
    path, sign = f"/images/{image.id}{image.suffix}", _sign.get()
    return f"{_origin.get()}{_root.get()}{path}{sign(path) if sign else ''}"


def thumbnail_url(image_id: str) -> str:
    return f"{_root.get()}/thumbnails/{image_id}.webp"


def root() -> str:
    """The path under which a proxy serves us, or an empty text."""
    return _root.get()


def api_url(path: str) -> str:
    return f"{root()}/api/v1/{path}"


def report_url(batch_id: str = "") -> str:
    """The page of a batch's report, or without one of the last night's."""
    return f"{root()}/reports/{f'batch/{batch_id}' if batch_id else 'night'}.html"


def source_url(source_id: str) -> str:
    return f"{_root.get()}/sources/{source_id}.png"


def preview_url(job_id: str, step: int) -> str:
    """The step is in the address so that a browser fetches each preview once."""
    return f"{_root.get()}/previews/{job_id}.webp?step={step}"


def batch_url(batch_id: str, what: str) -> str:
    """Of a file that a batch can be taken away as, such as ``zip``."""
    return f"{root()}/api/v1/batches/{batch_id}/{what}"


def queue_url(what: str) -> str:
    """Of all that waits, as a file."""
    return f"{root()}/api/v1/queue/{what}"


def progress(progress: BatchProgress) -> Json:
    """A batch: its times, counts by state, when it is estimated to be done, and where its files are."""
    batch = progress.batch
    root = f"{_root.get()}/api/v1"
    url = f"{root}/batches/{batch.id}"
    values = asdict(batch)
    del values["prediction"], values["graph"]
    values |= {"lane": str(batch.lane), "grid": json.loads(batch.grid) if batch.grid else None}
    return values | {
        "counts": {str(state): count for state, count in progress.counts.items()},
        "finished": all(count == 0 for state, count in progress.counts.items() if state not in FINAL),
        "done_at": progress.done_at,
        "warning": progress.warning,
        "jobs_url": f"{root}/jobs?batch_id={batch.id}",
        "stream_url": f"{url}/stream",
        "images_url": f"{url}/images",
        "zip_url": f"{url}/zip",
        "sheet_url": f"{url}/sheet.webp",
    }


def event(event: Event) -> Json:
    return asdict(event)


def worker(worker: Worker) -> Json:
    return asdict(worker)


def model(model: Model, plans: Sequence[MemoryPlan] | None = None) -> Json:
    """A model without its path on disk; ``plans`` where they were asked for: how each device would hold it."""
    values = asdict(model)
    for name in LOCAL_FIELDS:
        del values[name]
    values |= {"kinds": list(model.kinds), "scripts": list(model.scripts), "ready": model.ready}
    return values if plans is None else values | {"memory_plan": [memory_plan(each) for each in plans]}


def memory_plan(plan: MemoryPlan) -> Json:
    return asdict(plan) | {"fits": plan.fits}


def adapter(adapter: Adapter) -> Json:
    """A LoRA, VAE, upscaler or textual inversion, without its path on disk."""
    values = asdict(adapter)
    del values["path"]
    return values | {"ready": adapter.ready}


def download(download: Download) -> Json:
    values = asdict(download) | {"state": str(download.state)}
    kind, problem = values.pop("error_kind"), values.pop("error_message")
    return values | {"error": fault(kind, problem) if kind else None}


def delivery(delivery: Delivery) -> Json:
    """A delivery without its message."""
    values = asdict(delivery)
    del values["payload"]
    return values


def queue(snapshot: Snapshot) -> Json:
    """The queue at one moment; jobs without their pictures, as `job` and `jobs` give those."""
    places = {each.id: place for place, each in enumerate(snapshot.waiting, start=1)}
    return {
        "revision": snapshot.revision,
        "paused": snapshot.paused,
        "reason": snapshot.reason,
        "resting": snapshot.resting,
        "sleep_at": snapshot.sleep_at,
        "window": snapshot.window,
        "opens": {str(gate): at for gate, at in snapshot.opens.items()},
        "warnings": snapshot.warnings,
        "counts": {str(state): count for state, count in snapshot.counts.items()},
        "eta": None if snapshot.total_eta is None else round(snapshot.total_eta, 1),
        "running": [job(each, eta=snapshot.eta.get(each.id)) for each in snapshot.running],
        "waiting": [job(each, position=places[each.id], eta=snapshot.eta.get(each.id)) for each in snapshot.waiting],
        "ended": [job(each) for each in snapshot.ended],
        "workers": [worker(each) for each in snapshot.workers],
    }


def one_job(studio: JobFacts, job_id: str) -> Json:
    """A job with everything: place in line, estimate, picture."""
    found = studio.job(job_id)
    return with_places(studio, [found])[0]


def with_places(studio: JobFacts, jobs: list[Job]) -> list[Json]:
    """Jobs with their pictures, places in line and estimates."""
    images, places = studio.images_of(jobs), studio.places(jobs)
    return [job(each, images.get(each.id), *places[each.id]) for each in jobs]
