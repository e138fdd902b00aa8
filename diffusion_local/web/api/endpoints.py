"""The endpoints for programs, by Gradio's API: ``/submit``, ``/job``, ``/wait`` and the rest.

Each is one sentence to the Studio; those that steer the queue are in ``control``. Fast ones bypass Gradio's queue;
``wait`` and ``generate`` are coroutines, so that any number of callers can wait without holding a thread.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import anyio.to_thread
import gradio as gr
from gradio import FileData

from diffusion_local import actor, authority, shapes
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.options.signature import taking_options
from diffusion_local.options.values import number
from diffusion_local.store import faults
from diffusion_local.studio import MAX_WAIT, Studio
from diffusion_local.web.api import batch_endpoints, control, list_endpoints, report_endpoints
from diffusion_local.web.api.gradio.calls import UPLOAD
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.http import streams
from diffusion_local.web.api.watch import Watch, until_final

T = TypeVar("T")

#: Callers that may wait at the same moment; each is a coroutine and an open connection.
MOST_WAITING = 1000
FAST = (
    "submit",
    "add_source",
    "job",
    "jobs",
    "queue",
    "gallery",
    "image",
    "star",
    "trash",
    "restore",
    "models",
    *control.NAMES,
    *list_endpoints.NAMES,
    *report_endpoints.NAMES,
    *batch_endpoints.NAMES,
)
SLOW = ("wait", "generate")
STREAMED = ("watch",)


def add(studio: Studio, watch: Watch, uploads: Uploads) -> None:
    """Declare the endpoints; call inside a Blocks context."""
    made = {home: home(studio, watch, uploads) if home is Endpoints else home(studio) for home in HOMES}
    for name, home in homes():
        function = getattr(made[home], name)
        if name in FAST:
            gr.api(told(function), api_name=name, queue=False)
        else:
            later = told_as_it_comes if name in STREAMED else told_later
            gr.api(later(function), api_name=name, concurrency_limit=None)


def homes() -> Iterator[tuple[str, type]]:
    """Every endpoint's name with the class that has it as a method."""
    for name in (*FAST, *SLOW, *STREAMED):
        yield name, next((home for home, names in HOMES.items() if name in names), Endpoints)


def declared() -> list[tuple[str, Any]]:
    """Every endpoint's name and function, for the reference."""
    return [(name, getattr(home, name)) for name, home in homes()]


class Endpoints:
    """Parameters are named like Params; all but ``prompt`` and ids may be left out."""

    def __init__(self, studio: Studio, watch: Watch, uploads: Uploads) -> None:
        self._studio = studio
        self._watch = watch
        self._uploads = uploads

    @taking_options(batch=True)
    def submit(
        self,
        prompt: str,
        count: int = 1,
        name: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> dict:
        """Enqueue `count` pictures of a prompt and answer at once: {"batch_id", "job_ids", "warnings"}.

        What is left out takes the model's default; no seed draws one, several pictures get consecutive seeds.
        The same idempotency_key sent twice makes one batch.
        """
        return shapes.receipt(
            self._studio.submit(
                prompt, count=count, name=name, priority=priority, idempotency_key=idempotency_key, **options
            )
        )

    def add_source(self, picture: FileData) -> dict:
        """Keep a picture to begin from (`handle_file` uploads it): {"id", "width", "height", "url"}.

        Give its id as `source` or `mask` of a submit.
        """
        authority.check("sources.add")  # before the file is read
        named = picture.get(UPLOAD) if isinstance(picture, dict) else None  # see gradio.calls
        source = self._studio.sources.add(self._uploads.take(named, actor.current().name), "picture")
        return asdict(source) | {"url": shapes.source_url(source.id)}

    def job(self, job_id: str) -> dict:
        """One job: state (queued, running, done, failed, cancelled), step, position, eta, error, image."""
        return shapes.one_job(self._studio, job_id)

    async def wait(self, job_id: str, timeout: float = 60.0) -> dict:
        """The job once it has ended, or as it is after `timeout` seconds (at most 3600); work goes on either way."""
        await self._until_final([job_id], timeout)
        return await anyio.to_thread.run_sync(shapes.one_job, self._studio, job_id)

    @taking_options(batch=True)
    async def generate(
        self,
        prompt: str,
        count: int = 1,
        name: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        timeout: float = 120.0,
        **options: Any,
    ) -> dict:
        """Submit and wait up to `timeout` seconds: {"batch_id", "job_ids", "warnings", "jobs", "finished"}.

        After a time-out `finished` is false and the work goes on: ask /job or /wait for the same ids.
        """
        checked_timeout(timeout)
        order: dict[str, Any] = {"count": count, "name": name, "priority": priority, "idempotency_key": idempotency_key}
        receipt = await anyio.to_thread.run_sync(lambda: self._studio.submit(prompt, **order, **options))
        finished = await self._until_final(receipt.job_ids, timeout)
        jobs = await anyio.to_thread.run_sync(self._all, receipt.job_ids)
        return shapes.receipt(receipt) | {"jobs": jobs, "finished": finished}

    async def watch(self, job_id: str = "", batch_id: str = "", timeout: float = 600.0) -> AsyncIterator[dict]:
        """What happens to a job, or to a batch's jobs, as it happens; the last one is {"event": "end", ...}.

        Each is {"event", "data"}: `state` and `progress` as they come, `end` with the whole job or batch, or
        `timeout` after so many seconds (at most 3600). Leaving off stops nothing.
        """
        if bool(job_id) == bool(batch_id):
            raise InvalidParams("job_id", message("job_or_batch"))
        checked_timeout(timeout)
        source = streams.Followed(self._studio, None, job_id=job_id, batch_id=batch_id)
        async for each in streams.told_until_end(self._watch, source, timeout):
            yield each

    def jobs(self, state: str = "", batch_id: str = "", limit: int = 50, before: str = "") -> dict:
        """Jobs, newest first (a batch's in its own order): {"jobs", "next"}; give `next` as `before` to read on."""
        found = self._studio.jobs(state or None, batch_id or None, limit, before or None)
        following = found[-1].id if len(found) == limit else None
        return {"jobs": shapes.with_places(self._studio, found), "next": following}

    def queue(self) -> dict:
        """What runs, waits and has ended, the workers, and whether the queue is paused."""
        return shapes.queue(self._studio.snapshot())

    def gallery(
        self, limit: int = 48, before: str = "", search: str = "", starred: bool = False, trashed: bool = False
    ) -> dict:
        """Pictures, newest first: {"images", "next"}; give `next` as `before` to read on. `trashed`: of the trash."""
        found = self._studio.gallery(limit, before or None, search, starred, trashed)
        return {"images": [shapes.image(each) for each in found], "next": found[-1].id if len(found) == limit else None}

    def image(self, image_id: str) -> dict:
        """One picture with its whole recipe and the addresses of its files."""
        return shapes.image(self._studio.image(image_id))

    def star(self, image_id: str, starred: bool = True) -> dict:
        """Give a picture a star, or take it away; the picture."""
        return shapes.image(self._studio.star(image_id, starred))

    def trash(self, image_id: str) -> dict:
        """Take a picture out of the gallery; /restore brings it back while it is in the trash. The picture."""
        return shapes.image(self._studio.trash(image_id))

    def restore(self, image_id: str) -> dict:
        """Bring a picture back from the trash; the picture."""
        return shapes.image(self._studio.restore(image_id))

    def models(self) -> dict:
        """{"models"} with their defaults and limits, the default one first."""
        return {"models": [shapes.model(each) for each in self._studio.models()]}

    def _all(self, job_ids: list[str]) -> list[shapes.Json]:
        return shapes.with_places(self._studio, [self._studio.job(job_id) for job_id in job_ids])

    async def _until_final(self, job_ids: list[str], timeout: float) -> bool:
        return await until_final(self._studio, self._watch, job_ids, checked_timeout(timeout))


def checked_timeout(timeout: float) -> float:
    return number("timeout", timeout, 0, MAX_WAIT)


def told(endpoint: Callable[..., T]) -> Callable[..., T]:
    """A UserError reaches the caller as its sentence; Gradio hides every other error."""

    @functools.wraps(endpoint)
    def call(*args: Any, **kwargs: Any) -> T:
        try:
            with faults.explained():
                return endpoint(*args, **kwargs)
        except UserError as error:
            raise gr.Error(error.message, print_exception=False) from None

    return signed_as(endpoint, call)


def told_later(endpoint: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    @functools.wraps(endpoint)
    async def call(*args: Any, **kwargs: Any) -> T:
        try:
            with faults.explained():
                return await endpoint(*args, **kwargs)
        except UserError as error:
            raise gr.Error(error.message, print_exception=False) from None

    return signed_as(endpoint, call)


def told_as_it_comes(endpoint: Callable[..., AsyncIterator[T]]) -> Callable[..., AsyncIterator[T]]:
    @functools.wraps(endpoint)
    async def call(*args: Any, **kwargs: Any) -> AsyncIterator[T]:
        try:
            with faults.explained():
                async for each in endpoint(*args, **kwargs):
                    yield each
        except UserError as error:
            raise gr.Error(error.message, print_exception=False) from None

    signed_as(endpoint, call)
    call.__signature__ = inspect.signature(call).replace(return_annotation=dict)  # type: ignore[attr-defined]
    return call


def signed_as(endpoint: Callable[..., Any], call: T) -> T:
    """A bound method's signature, without ``self``: gradio reads it off the wrapper."""
    call.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return call


#: Classes of endpoints, and the names that each has; ``Endpoints`` has the rest.
HOMES: dict[type, tuple[str, ...]] = {
    control.Control: control.NAMES,
    list_endpoints.Lists: list_endpoints.NAMES,
    report_endpoints.Reports: report_endpoints.NAMES,
    batch_endpoints.Batches: batch_endpoints.NAMES,
    Endpoints: (),
}
