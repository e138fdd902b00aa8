"""The endpoints for programs through Gradio's API: ``/submit``, ``/job``, ``/wait`` and the others.

Most derive from the registry of operations. Written by hand are those that wait, or that serve several operations under
one name. Fast ones bypass Gradio's queue; ``wait``, ``generate`` and ``watch`` are coroutines, so any number of callers
can wait without holding a thread.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import anyio.to_thread
import gradio as gr
from gradio import FileData

from diffusion_local import actor, authority, disk
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.messages import message
from diffusion_local.operations import answers, registry
from diffusion_local.operations.operation import Operation
from diffusion_local.options.signature import with_options
from diffusion_local.options.values import check_number
from diffusion_local.studio import MAX_WAIT, Studio
from diffusion_local.web.api.gradio.call_checks import UPLOAD
from diffusion_local.web.api.gradio.uploads import Uploads
from diffusion_local.web.api.watch import JobEvents, Watch, follow_until_end, until_final

#: Callers of all accounts that may wait at once; each is a coroutine. `gradio_compat` has the limit per account.
MOST_WAITING = 4000
SLOW = ("wait", "generate")
STREAMED_ENDPOINTS = ("watch",)


def derived() -> dict[str, Operation]:
    """The operations with an endpoint of their own, by endpoint name."""
    found = [each for each in registry.OPERATIONS.values() if each.endpoint]
    return {registry.endpoint(each)[0]: each for each in found}


def names() -> list[str]:
    return [*derived(), *HAND_WRITTEN]


def add(studio: Studio, watch: Watch, uploads: Uploads) -> None:
    """Declare the endpoints; call inside a Blocks context."""
    for name, operation in derived().items():
        gr.api(with_readable_errors(endpoint(operation, studio)), api_name=name, queue=False)
    written = Endpoints(studio, watch, uploads)
    for name in HAND_WRITTEN:
        function = getattr(written, name)
        if name in STREAMED_ENDPOINTS:
            gr.api(with_readable_errors_streamed(function), api_name=name, concurrency_limit=None)
        elif name in SLOW:
            gr.api(with_readable_errors_async(function), api_name=name, concurrency_limit=None)
        else:
            gr.api(with_readable_errors(function), api_name=name, queue=False)


def declared() -> list[tuple[str, Any]]:
    """Every endpoint's name and function, for the reference."""
    made = [(name, endpoint(operation, None)) for name, operation in derived().items()]
    return made + [(name, getattr(Endpoints, name)) for name in HAND_WRITTEN]


def endpoint(operation: Operation, studio: Any) -> Callable[..., dict]:
    """The function of an operation's endpoint, with a signature that Gradio reads."""
    name, offered = registry.endpoint(operation)

    def call(*args: Any, **kwargs: Any) -> dict:
        arguments = dict(zip((each.name for each in offered), args, strict=False)) | kwargs
        if arguments.get("job_id") and arguments.get("job_ids"):
            raise InvalidParams("job_ids", message("without_job_id"))
        known = registry.method_arguments(arguments, offered)
        check_ids(known.get("job_ids", []))
        return answers.answer_json(studio, operation, operation.answer, known, registry.call(studio, operation, known))

    call.__name__, call.__doc__ = name, operation.doc
    parameters = [parameter_of(each) for each in offered]
    call.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": dict}
    call.__signature__ = inspect.Signature(parameters, return_annotation=dict)  # type: ignore[attr-defined]
    return call


def parameter_of(argument: registry.Argument) -> inspect.Parameter:
    kind, default = argument.kind, argument.default
    if isinstance(kind, type) and issubclass(kind, Enum):
        kind, default = str, str(default)
    return inspect.Parameter(argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)


def check_ids(job_ids: Any) -> None:
    if not isinstance(job_ids, list):
        raise InvalidParams("job_ids", message("job_ids_list"))
    if not all(isinstance(each, str) for each in job_ids):
        raise InvalidParams("job_ids", message("job_ids_text"))


class Endpoints:
    """Endpoints that serve more than a single operation."""

    def __init__(self, studio: Studio, watch: Watch, uploads: Uploads) -> None:
        self._studio = studio
        self._watch = watch
        self._uploads = uploads

    def add_source(self, picture: FileData) -> dict:
        """Store a source picture (`handle_file` uploads it): {"id", "width", "height", "url"}.

        Its id can be the `source` or `mask` of a submit, or an entry of its `references`.
        """
        authority.check("sources.add")  # before the file is read
        named = picture.get(UPLOAD) if isinstance(picture, dict) else None  # see gradio.calls
        source = self._studio.sources.add(self._uploads.take(named, actor.current().name), "picture")
        return answers.as_json(self._studio, source)

    def pause(self, batch_id: str = "", give_back: bool = False) -> dict:
        """Start no further pictures, of the queue or of one batch, until /resume; survives restarts.

        The running picture is finished, or with `give_back` returned to its place in the queue at its next step.
        """
        if batch_id:
            self._studio.queue.pause_batch(batch_id, give_back)
            return {"paused": True, "batch_id": batch_id}
        self._studio.queue.pause(give_back)
        return {"paused": True}

    def resume(self, batch_id: str = "") -> dict:
        """Resume the queue or one batch after /pause."""
        if batch_id:
            self._studio.queue.resume_batch(batch_id)
            return {"paused": False, "batch_id": batch_id}
        self._studio.queue.resume()
        return {"paused": False}

    def report(self, batch_id: str = "", since: str = "", until: str = "") -> dict:
        """Report on a batch, or on all jobs that ended between two times (by default in the last 12 hours)."""
        reports = self._studio.reports
        return (reports.batch(batch_id) if batch_id else reports.night(since or None, until or None)).to_dict()

    def export_queue(self) -> dict:
        """Export the waiting jobs as a file for /import_queue on another machine: {"text"}."""
        return {"text": "".join(self._studio.queue_file.export())}

    async def wait(self, job_id: str, timeout: float = 60.0) -> dict:
        """The job once it has ended, or as it is after `timeout` seconds (at most 3600); work continues either way."""
        await self._until_final([job_id], timeout)
        return (await anyio.to_thread.run_sync(self._jobs, [job_id]))[0]

    @with_options(batch=True)
    async def generate(
        self,
        prompt: str,
        count: int = 1,
        name: str = "",
        priority: int = 0,
        idempotency_key: str | None = None,
        timeout: float = 120.0,
        expand: str | None = None,
        **options: Any,
    ) -> dict:
        """Submit and wait up to `timeout` seconds: {"batch_id", "job_ids", "warnings", "jobs", "finished"}.

        After a time-out `finished` is false and the work continues: call /job or /wait with the same ids.
        """
        checked_timeout(timeout)
        order: dict[str, Any] = {"count": count, "name": name, "priority": priority, "idempotency_key": idempotency_key}
        order["expand"] = expand
        receipt = await anyio.to_thread.run_sync(lambda: self._studio.submit(prompt, **order, **options))
        finished = await self._until_final(receipt.job_ids, timeout)
        jobs = await anyio.to_thread.run_sync(self._jobs, receipt.job_ids)
        return answers.as_json(self._studio, receipt) | {"jobs": jobs, "finished": finished}

    async def watch(self, job_id: str = "", batch_id: str = "", timeout: float = 600.0) -> AsyncIterator[dict]:
        """Live events of a job, or of a batch's jobs; the last one is {"event": "end", ...}.

        Each is {"event", "data"}: `state` and `progress` as they occur, `end` with the whole job or batch, or
        `timeout` after `timeout` seconds (at most 3600). Disconnecting stops no job.
        """
        if bool(job_id) == bool(batch_id):
            raise InvalidParams("job_id", message("job_or_batch"))
        checked_timeout(timeout)
        source = JobEvents(self._studio, None, job_id=job_id, batch_id=batch_id)
        async for each in follow_until_end(self._watch, source, timeout):
            yield each

    def _jobs(self, job_ids: list[str]) -> list[Any]:
        return answers.as_json(self._studio, [self._studio.job(job_id) for job_id in job_ids])

    async def _until_final(self, job_ids: list[str], timeout: float) -> bool:
        return await until_final(self._studio, self._watch, job_ids, checked_timeout(timeout))


HAND_WRITTEN = tuple(name for name in vars(Endpoints) if not name.startswith("_"))


def checked_timeout(timeout: float) -> float:
    return check_number("timeout", timeout, 0, MAX_WAIT)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Pass the message of a UserError to the caller; Gradio hides all other errors."""
    try:
        with disk.storage_errors():
            yield
    except UserError as error:
        raise gr.Error(error.message, print_exception=False) from None


def with_readable_errors(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with readable_errors():
            return function(**without_nulls(function, args, kwargs))

    return signed_as(function, call)


def with_readable_errors_async(function: Any) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with readable_errors():
            return await function(**without_nulls(function, args, kwargs))

    return signed_as(function, call)


def with_readable_errors_streamed(function: Any) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with readable_errors():
            async for each in function(**without_nulls(function, args, kwargs)):
                yield each

    return signed_as(function, call)


def without_nulls(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; null, as sent by positional clients, counts as absent."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    arguments = bound | bound.pop("options", {}) if isinstance(bound.get("options"), dict) else bound
    return {name: value for name, value in arguments.items() if value is not None}


def signed_as(function: Any, call: Any) -> Any:
    """Give the wrapper ``call`` the signature of a bound method, without ``self``, for Gradio to read."""
    call.__signature__ = inspect.signature(function).replace(return_annotation=dict)
    return call
