"""JSON representations, used by the API and by ``--json`` of the command line. Clients depend on the field names."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, NotRequired, Protocol
from urllib.parse import quote

from typing_extensions import TypedDict  # pydantic rejects typing's before Python 3.12

from diffusion_local.domain import FINAL, Event, Failure, Image, Job, MemoryPlan, Receipt, Snapshot, Worker
from diffusion_local.hub.downloads import Download
from diffusion_local.messages import serialize
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import LOCAL_FIELDS, Model
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.queue.batches import BatchProgress

Json = dict[str, Any]
#: Kinds of failures whose detail starts with the cause of the worker's death.
DEATHS = ("worker_lost", "timed_out")

#: Returns the query string that opens a picture path (without a proxy's prefix), or "" if none is needed.
Sign = Callable[[str], str]

_root: ContextVar[str] = ContextVar("root", default="")
_origin: ContextVar[str] = ContextVar("origin", default="")
_sign: ContextVar[Sign | None] = ContextVar("sign", default=None)


@contextmanager
def with_root(root: str, origin: str = "") -> Iterator[None]:
    """Context in which file addresses start with ``root`` (the path prefix of a proxy), and absolute ones with
    ``origin`` (scheme and host that the caller used).
    """
    tokens = _root.set(root), _origin.set(origin)
    try:
        yield
    finally:
        _root.reset(tokens[0])
        _origin.reset(tokens[1])


@contextmanager
def with_signature(sign: Sign) -> Iterator[None]:
    """Context in which ``public_url`` is signed."""
    token = _sign.set(sign)
    try:
        yield
    finally:
        _sign.reset(token)


class JobFacts(Protocol):
    """The part of a Studio, local or remote, that serializing a job needs."""

    def job(self, job_id: str) -> Job: ...

    def images_of(self, jobs: Sequence[Job]) -> dict[str, Image]: ...

    def places(self, jobs: Sequence[Job]) -> dict[str, tuple[int | None, float | None]]: ...


class SourcePicture(TypedDict):
    """A source picture; sizes in pixels. ``recipe``: the recipe found in an uploaded file."""

    id: str
    width: int
    height: int
    url: str
    recipe: NotRequired[dict[str, Any] | None]


class Fault(TypedDict):
    """Why a request was refused. ``field``: the invalid field, if any. ``id`` and ``params`` allow composing the
    message in another language; nested messages are objects with ``id``, ``params`` and ``message``.
    """

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
    """Why a job or download failed."""
    return {"kind": kind, "message": problem, **serialize(problem)}


def job(job: Job, image: Image | None = None, position: int | None = None, eta: float | None = None) -> Json:
    """A job. ``position``: 1-based queue position; ``eta``: seconds from now; null if there is none."""
    return {
        "id": job.id,
        "batch_id": job.batch_id,
        "index": job.index,
        "state": str(job.state),
        "step": job.step,
        "steps": job.params.total_steps,
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
    """Why a job failed. ``cause``, if its worker died: signal, and whether memory ran out."""
    cause = failure.detail.partition("\n")[0] if failure.kind in DEATHS else ""
    return fault(failure.kind, failure.message) | ({"cause": cause} if cause else {})


def params(owner: Job | Image) -> Json:
    values = asdict(owner.params)
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return values | lists | {"kind": str(owner.params.kind)}


def image_link(image: Image) -> Json:
    """Addresses of a picture: ``url`` is relative to the server's root, ``public_url`` absolute."""
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
        "caption": image.caption,
        "created_at": image.created_at,
        "trashed_at": image.trashed_at,
        "params": params(image),
    }


def file_url(image: Image) -> str:
    return picture_url(image.id, image.suffix)


def picture_url(image_id: str, suffix: str = ".png") -> str:
    return f"{_root.get()}/images/{image_id}{suffix}"


def public_url(image: Image) -> str:
    """An absolute address that opens the picture by plain GET, for at most an hour if accounts are in use.

    Outside of a request it is relative.
    """
    path, sign = f"/images/{image.id}{image.suffix}", _sign.get()
    return f"{_origin.get()}{_root.get()}{path}{sign(path) if sign else ''}"


def thumbnail_url(image_id: str) -> str:
    return f"{_root.get()}/thumbnails/{image_id}.webp"


def model_preview_url(folder: str, name: str) -> str:
    return f"{_root.get()}/model-previews/{folder}/{quote(name, safe='')}"


def root() -> str:
    """Path prefix of a proxy, or ""."""
    return _root.get()


def api_url(path: str) -> str:
    return f"{root()}/api/v1/{path}"


def report_url(batch_id: str = "") -> str:
    """Page of a batch's report, or of last night's."""
    return f"{root()}/reports/{f'batch/{batch_id}' if batch_id else 'night'}.html"


def source_url(source_id: str) -> str:
    return f"{_root.get()}/sources/{source_id}.png"


def preview_url(job_id: str, step: int) -> str:
    """URL of a job's preview. The step makes browsers fetch each preview once."""
    return f"{_root.get()}/previews/{job_id}.webp?step={step}"


def batch_url(batch_id: str, what: str) -> str:
    """URL of a batch's file, such as ``zip``."""
    return f"{root()}/api/v1/batches/{batch_id}/{what}"


def queue_url(what: str) -> str:
    """URL of a file with all queued jobs."""
    return f"{root()}/api/v1/queue/{what}"


def progress(progress: BatchProgress) -> Json:
    """A batch: times, job counts by state, estimated completion, and URLs of its files."""
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
    """A model without its path. ``plans``: its memory plan for each device, if requested."""
    values = asdict(model)
    for name in LOCAL_FIELDS:
        del values[name]
    values |= {"kinds": list(model.kinds), "scripts": list(model.scripts), "ready": model.ready}
    return values if plans is None else values | {"memory_plan": [memory_plan(each) for each in plans]}


def memory_plan(plan: MemoryPlan) -> Json:
    return asdict(plan) | {"fits": plan.fits_memory}


def adapter(adapter: Adapter) -> Json:
    """A LoRA, VAE, upscaler or textual inversion, without its path."""
    values = asdict(adapter)
    del values["path"]
    return values | {"ready": adapter.ready}


def download(download: Download) -> Json:
    values = asdict(download) | {"state": str(download.state), "repo": download.source}
    kind, problem = values.pop("error_kind"), values.pop("error_message")
    return values | {"error": fault(kind, problem) if kind else None}


def delivery(delivery: Delivery) -> Json:
    """A delivery without its payload."""
    values = asdict(delivery)
    del values["payload"]
    return values


def queue(snapshot: Snapshot) -> Json:
    """The queue at one moment; jobs without their pictures (see `job` and `jobs`)."""
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
    """A job with queue position, estimate and picture."""
    found = studio.job(job_id)
    return with_places(studio, [found])[0]


def with_places(studio: JobFacts, jobs: list[Job]) -> list[Json]:
    """Jobs with pictures, queue positions and estimates."""
    images, places = studio.images_of(jobs), studio.places(jobs)
    return [job(each, images.get(each.id), *places[each.id]) for each in jobs]
