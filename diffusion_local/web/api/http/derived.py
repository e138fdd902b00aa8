"""HTTP routes derived from the registry of operations: each calls one method of the Studio."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from diffusion_local import serializers
from diffusion_local.domain import FINAL, Receipt
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.gallery.sources import Source
from diffusion_local.hub.downloads import Download
from diffusion_local.lists.service import ListReceipt
from diffusion_local.operations import answers, registry
from diffusion_local.operations.operation import AsObject, File, Operation, Paged, Route
from diffusion_local.operations.registry import Argument
from diffusion_local.studio import Studio
from diffusion_local.web.api.http_headers import REVALIDATE, linked, read_prefer, tagged
from diffusion_local.web.api.schemas import IDEMPOTENCY_ARGUMENT, answer_schema, model_of
from diffusion_local.web.api.watch import Watch, until
from diffusion_local.web.files import StoredResponse

log = logging.getLogger(__name__)

Prefer = Annotated[str | None, Header(description="`wait=N` (RFC 7240): answer once it has ended, or after N seconds")]
LONGEST_PAUSE = 60  # seconds; upper limit of Retry-After
REPEATED = ("state",)  # query parameters that may be repeated
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".jsonl": "application/jsonl",
    ".webp": "image/webp",
    ".zip": "application/zip",
}
#: Tags of paths whose first segment is not their tag.
TAG_BY_PATH = {"adapters": "models", "known-models": "models", "downloads": "models"}


def routes() -> list[tuple[Operation, Route]]:
    """All declared routes that are served here; those with a fixed path precede those with an id in its place."""
    found = [
        (operation, route) for operation in registry.OPERATIONS.values() for route in operation.routes if route.served
    ]
    return sorted(found, key=lambda each: [part.startswith("{") for part in each[1].path.split("/")])


def router(studio: Studio, watch: Watch) -> APIRouter:
    api = APIRouter()
    for operation, route in routes():
        word = route.path.split("/")[1]
        answer = route.answer or operation.answer
        described: dict[str, Any] = {}
        options: dict[str, Any] = {"response_class": StreamingResponse if isinstance(answer, File) else JSONResponse}
        if not isinstance(answer, File):
            described = {"model": answer_schema(operation, answer, route.status)}
        api.add_api_route(
            route.path,
            endpoint(studio, watch, operation, route),
            methods=[route.method],
            tags=[TAG_BY_PATH.get(word, word)],
            status_code=route.status,
            operation_id=operation_id(operation, route),
            name=operation_id(operation, route),
            description=operation.doc,
            responses={route.status: described},
            response_model=None,
            openapi_extra=binary() if route.content else None,
            **options,
        )
    return api


def operation_id(operation: Operation, route: Route) -> str:
    """A stable id: the operation's name, with the subject appended for all routes but the first."""
    name = operation.id
    if route == operation.routes[0]:
        return name
    about = "_of_" + "_".join(each.removesuffix("_id") for each in registry.path_arguments(route))
    return name + (about if registry.path_arguments(route) else f"_{route.path.split('/')[1]}")


def endpoint(studio: Studio, watch: Watch, operation: Operation, route: Route) -> Callable[..., Any]:
    """The function of a route, with a signature that FastAPI reads."""
    path = registry.arguments(operation, " ".join(registry.path_arguments(route)))
    named = {each.name for each in path}
    offered = [each for each in registry.arguments(operation, route.takes) if each.name not in named]
    offered = [each for each in offered if each.parameter != route.content]
    in_query = route.method in ("GET", "DELETE") or bool(route.content)
    parameters = [parameter("request", Request), *(parameter(each.name, str) for each in path)]
    fields = [each for each in offered if each.name != IDEMPOTENCY_ARGUMENT]
    if in_query:
        parameters += [queried(each) for each in fields]
    elif fields:
        title = "".join(part.capitalize() for part in operation_id(operation, route).split("_"))
        model = model_of(f"{title}Body", fields)
        required = any(each.required for each in fields)
        parameters.append(parameter("body", model) if required else parameter("body", model | None, None))
    if len(fields) < len(offered):
        meaning = registry.ARGUMENT_MEANINGS[IDEMPOTENCY_ARGUMENT]
        parameters.append(parameter(IDEMPOTENCY_ARGUMENT, Annotated[str | None, Header(description=meaning)], None))

    def call_operation(request: Request, body: BaseModel | None = None, **named: Any) -> Response:
        values = {name: split(value) for name, value in named.items()} | (body.model_dump() if body else {})
        values |= {name: ",".join(request.query_params.getlist(name)) for name in REPEATED if values.get(name)}
        known = registry.method_arguments(values, path + offered)
        if route.content:
            known[route.content] = named["content"]
        return response(studio, operation, route, request, known, registry.call(studio, operation, known))

    async def with_content(request: Request, **named: Any) -> Response:
        content = await request.body()
        return await anyio.to_thread.run_sync(functools.partial(call_operation, request, content=content, **named))

    async def waiting(request: Request, prefer: str | None = None, **named: Any) -> Response:
        preference = read_prefer(prefer)
        if preference.seconds:
            await until_ended(studio, watch, operation.name, named, preference.seconds, request)
        found = await anyio.to_thread.run_sync(functools.partial(call_operation, request, **named))
        found.headers.update(preference.headers)
        return found

    function: Any = with_content if route.content else call_operation
    if route.waits:
        parameters.append(parameter("prefer", Prefer, None))
        function = waiting
    function.__signature__ = inspect.Signature(parameters)
    return function


def parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def queried(argument: Argument) -> inspect.Parameter:
    kind: Any = Annotated.__class_getitem__((argument.kind, Query(description=argument.meaning or None)))  # type: ignore[attr-defined]
    return parameter(argument.name, kind, argument.default)


def split(value: Any) -> Any:
    """A list in a query; values may also be comma-separated."""
    return [part for each in value for part in each.split(",") if part] if isinstance(value, list) else value


def binary() -> dict[str, Any]:
    content = {"application/jsonl": {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


# -- answers -----------------------------------------------------------------------------------------------------------


def response(
    studio: Studio, operation: Operation, route: Route, request: Request, arguments: dict[str, Any], value: Any
) -> Response:
    """The response for the ``value`` that the method returned."""
    answer = route.answer or operation.answer
    if isinstance(answer, File):
        defaults = {each.name: each.default for each in registry.arguments(operation)}
        return download(answer.name.format_map(defaults | arguments), value)
    if isinstance(answer, AsObject) and isinstance(value, Receipt | ListReceipt):
        return accepted_response(studio, value)
    content = answers.answer_json(studio, operation, answer, arguments, value)
    if route.method == "GET":
        link = linked(request, content["next"]) if isinstance(answer, Paged) else {}
        return tagged(request, content, link)
    return JSONResponse(content, route.status, headers=location(value))


def location(value: Any) -> dict[str, str]:
    if isinstance(value, Download):
        return {"Location": serializers.api_url(f"downloads/{value.id}")}
    return {"Location": serializers.source_url(value.id)} if isinstance(value, Source) else {}


def accepted_response(studio: Studio, receipt: Receipt | ListReceipt) -> JSONResponse:
    """202, with the URL to poll and when."""
    content, pause = status_urls(studio, receipt)
    return JSONResponse(content, 202, headers={"Location": content["status_url"], "Retry-After": str(pause)})


def status_urls(studio: Studio, receipt: Receipt | ListReceipt) -> tuple[serializers.Json, int]:
    """The response after enqueuing a batch, and the seconds after which polling makes sense."""
    batch = serializers.api_url(f"batches/{receipt.batch_id}")
    addresses = {
        "status_url": batch,
        "stream_url": f"{batch}/stream",
        "result_url": f"{batch}/images",
        "cancel_url": f"{batch}/cancel",
        "jobs_url": serializers.api_url(f"jobs?batch_id={receipt.batch_id}"),
        "sheet_url": f"{batch}/sheet.webp",
    }
    content = answers.as_json(studio, receipt) | addresses | {"finished": False}
    return content, first_pause(studio, receipt.job_ids[0])


def first_pause(studio: Studio, job_id: str) -> int:
    """``Retry-After`` of a submit: seconds after which asking about the job makes sense.

    A failing estimate is logged: as an error it would look like a failed submit, and the caller would submit again.
    """
    try:
        seconds = studio.recent_estimate(studio.job(job_id))
    except Exception:
        log.exception("The time until job %s is done could not be estimated.", job_id)
        return 1
    return max(1, min(LONGEST_PAUSE, round(seconds or 1)))


async def until_ended(
    studio: Studio, watch: Watch, name: str, arguments: dict[str, Any], seconds: float, request: Request
) -> None:
    """Wait until a job or a batch has ended, time is up, or the caller has disconnected. Raises NotFound."""

    def ended() -> bool:
        if name == "job":
            return studio.job(arguments["job_id"]).final
        counts = studio.batches.get(arguments["batch_id"]).counts
        return all(count == 0 for state, count in counts.items() if state not in FINAL)

    await until(watch, ended, seconds, request)


def download(name: str, value: Iterator[bytes] | Iterator[str] | StoredFile) -> Response:
    media = MEDIA_TYPES[PurePath(name).suffix]
    if isinstance(value, StoredFile):
        return StoredResponse(value, media, REVALIDATE)
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(value, media_type=media, headers=headers)
