"""``RemoteStudio``: the methods of ``Studio`` that have a route in the registry, executed on another machine.

A call becomes a request: arguments go to the route's path, query, header or body, and the response is parsed to the
method's return type. Only methods that need several requests or a file are written by hand.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from diffusion_local.batches.service import BatchEdit
from diffusion_local.domain import Batch, Failure, Image, Job, MemoryPlan, Snapshot, State, Worker
from diffusion_local.hub.downloads import Download
from diffusion_local.lists.encoding import read_bounded
from diffusion_local.lists.list_formats import format_of
from diffusion_local.messages import deserialize
from diffusion_local.models.catalog import Model
from diffusion_local.models.service import RemovedModel
from diffusion_local.operations import registry
from diffusion_local.operations.operation import AsField, Constant, File, Operation, Paged, Route
from diffusion_local.options.table import Params
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.remote.server import RemoteServer, path_segment
from diffusion_local.reports.service import to_json
from diffusion_local.studio import MAX_JOBS_BY_ID

POLL_SECONDS = 0.5
MOST_MB = 1000  # size limit of uploads; the server has its own limit
IDEMPOTENCY_ARGUMENT = "idempotency_key"
Place = tuple[int | None, float | None]


class RemotePart:
    """A part of the Studio, such as ``lists``: each declared operation is a method."""

    def __init__(self, server: RemoteServer, name: str = "") -> None:
        self._server = server
        self._name = name

    def __getattr__(self, verb: str) -> Any:
        operation = registry.OPERATIONS.get(f"{self._name}.{verb}".lstrip("."))
        if operation is None or not operation.routes:
            raise AttributeError(f"{verb} is not available from a studio on another machine.")

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(operation, args, kwargs)

        return call

    def _call(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        signature = registry.signature(operation.name)
        bound = dict(signature.bind(None, *args, **kwargs).arguments)
        for each in signature.parameters.values():
            if each.kind is each.VAR_KEYWORD:
                bound |= bound.pop(each.name, {})
        given = {name: value for name, value in bound.items() if name != "self" and value is not None}
        route = next(each for each in operation.routes if set(registry.path_arguments(each)) <= set(given))
        path = route.path.format_map(
            {name: path_segment(str(given.pop(name))) for name in registry.path_arguments(route)}
        )
        answer = route.answer or operation.answer
        kind = registry.return_type(operation.name)
        if isinstance(answer, File):
            text = kind == Iterator[str]
            return self._server.stream_lines(path, **given) if text else self._server.stream_bytes(path, **given)
        content = self._server.request(route.method, path, **self._request(operation, route, given))
        if isinstance(answer, Constant):
            return None
        if isinstance(answer, AsField | Paged):
            content = content[answer.name]
        return convert(kind, content)

    def _request(self, operation: Operation, route: Route, arguments: dict[str, Any]) -> dict[str, Any]:
        """httpx arguments: query, headers and body."""
        request: dict[str, Any] = {}
        key = arguments.pop(IDEMPOTENCY_ARGUMENT, None)
        if key:
            request["headers"] = {"Idempotency-Key": key}
        if route.content:
            request["content"] = file_data(arguments.pop(route.content))
        names = {each.parameter: each.name for each in registry.arguments(operation, route.takes)}
        named = {names.get(name, name): value for name, value in arguments.items()}
        if route.content or route.method in ("GET", "DELETE"):
            request["params"] = {name: value for name, value in named.items() if value != ""}
        elif named:
            request["json"] = named
        return request


class RemoteStudio(RemotePart):
    """A studio on another machine.

    Responses about jobs include their pictures and positions, which are cached, so that ``images_of`` and ``places``
    describe the same moment.
    """

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(RemoteServer(url, token))
        self._images: dict[str, Image] = {}
        self._places: dict[str, Place] = {}
        own = {"batches": RemoteBatches, "lists": RemoteLists, "library": RemoteLibrary, "reports": RemoteReports}
        for name in {each.rpartition(".")[0] for each in registry.OPERATIONS} - {""}:
            setattr(self, name, own.get(name, RemotePart)(self._server, name))

    @property
    def url(self) -> str:
        """Address of the server."""
        return self._server.url

    def wait(self, job_ids: Sequence[str], timeout: float) -> list[Job]:
        """Wait until all jobs have ended or ``timeout`` seconds have passed; returns the jobs."""
        deadline = time.monotonic() + timeout
        while True:
            jobs: list[Job] = []
            for start in range(0, len(job_ids), MAX_JOBS_BY_ID):
                jobs += self.jobs(ids=list(job_ids[start : start + MAX_JOBS_BY_ID]))
            left = deadline - time.monotonic()
            if all(job.final for job in jobs) or left <= 0:
                return jobs
            time.sleep(min(POLL_SECONDS, left))

    def job(self, job_id: str) -> Job:
        return self._remember(self._server.get(f"/jobs/{path_segment(job_id)}"))

    def jobs(self, *args: Any, **kwargs: Any) -> list[Job]:
        names = ("state", "batch_id", "limit", "before")
        query = dict(zip(names, args, strict=False)) | kwargs
        query["id"] = query.pop("ids", None)
        return [self._remember(each) for each in self._server.get("/jobs", **query)["jobs"]]

    def _remember(self, data: dict[str, Any]) -> Job:
        job = parse_job(data)
        self._places[job.id] = (data["position"], data["eta"])
        if data["image"]:
            self._images[job.id] = parse_image(data["image"], job.params)
        return job

    def places(self, jobs: Sequence[Job]) -> dict[str, Place]:
        return {job.id: self._places.get(job.id, (None, None)) for job in jobs}

    def images_of(self, jobs: Sequence[Job]) -> dict[str, Image]:
        return {job.id: self._images[job.id] for job in jobs if job.id in self._images}

    def batch(self, batch_id: str) -> tuple[Batch, dict[State, int]]:
        progress = self.batches.get(batch_id)
        return progress.batch, progress.counts

    def snapshot(self, waiting: int = 50, ended: int = 20) -> Snapshot:
        found = parse_snapshot(self._server.get("/queue"))
        return replace(found, waiting=found.waiting[:waiting], ended=found.ended[:ended])

    def workers(self) -> list[Worker]:
        return self.snapshot().workers

    def picture_file(self, image_id: str) -> str:
        """URL of the picture."""
        return f"{self._server.url}/images/{path_segment(image_id)}.png"

    def picture_data(self, image_id: str) -> bytes:
        image = self._server.get(f"/images/{path_segment(image_id)}")
        return self._server.fetch_file(f"/images/{image['url'].rpartition('/')[2]}")


class RemoteBatches(RemotePart):
    def contact_sheet(self, batch_id: str) -> Path:
        """Download the sheet to a temporary file, because the server's file is not accessible."""
        with tempfile.NamedTemporaryFile(suffix=".webp", delete=False) as file:
            file.writelines(self._server.stream_bytes(f"/batches/{path_segment(batch_id)}/sheet.webp"))
        return Path(file.name)


class RemoteLists(RemotePart):
    """Prompt lists; a file's name determines the list's format and the batch's name."""

    def check(self, content: Any, format: str = "", **options: Any) -> Any:
        return self.__getattr__("check")(content, format or file_name(content), **options)

    def submit(self, content: Any, format: str = "", **options: Any) -> Any:
        if isinstance(content, Path):
            options["name"] = options.get("name") or content.stem
        return self.__getattr__("submit")(content, format or file_name(content), **options)


class RemoteLibrary(RemotePart):
    def plans(self, *models: Model) -> dict[str, list[MemoryPlan]]:
        answers = [self._server.get(f"/models/{path_segment(each.id)}") for each in models]
        return {
            each["id"]: [parse(MemoryPlan, plan) for plan in each.get("memory_plan", [])]
            for each in answers or self._server.get("/models")["models"]
        }


class RemoteReports(RemotePart):
    def written(
        self, form: str, batch_id: str | None = None, since: str | None = None, until: str | None = None
    ) -> str:
        path = f"/reports/batch/{path_segment(batch_id)}" if batch_id else "/reports/night"
        if form == "json":
            return to_json(self._server.get(path, since=since, until=until))
        return "".join(self._server.stream_lines(f"{path}.{form}", since=since, until=until))


def file_name(content: Any) -> str:
    return format_of(content.name) if isinstance(content, Path) else ""


def file_data(content: Any) -> bytes:
    if isinstance(content, str):
        return content.encode()
    return content if isinstance(content, bytes) else read_bounded(content, MOST_MB)


# -- parsing of answers ------------------------------------------------------------------------------------------------


T = TypeVar("T")
EMPTY = {str: "", int: 0, float: 0.0, bool: False, Path: Path()}


def parse(noun: type[T], data: Mapping[str, Any], **known: Any) -> T:
    """Create a dataclass from JSON; ``known`` fields are passed unchanged."""
    values = dict(known)
    for name, kind, empty in field_specs(noun):  # type: ignore[arg-type]
        if name in values:
            continue
        if name in data:
            values[name] = convert(kind, data[name])
        elif empty is not MISSING:
            values[name] = empty
    return noun(**values)


@cache
def field_specs(noun: type[Any]) -> list[tuple[str, Any, Any]]:
    """(name, type, value if absent) per field; MISSING leaves it to the dataclass."""
    hints = get_type_hints(noun)
    return [
        (each.name, hints[each.name], MISSING if has_default(each) else EMPTY.get(hints[each.name], MISSING))
        for each in fields(noun)
        if each.init
    ]


def has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def convert(kind: Any, value: Any) -> Any:
    if value is None or kind is Any:
        return value
    if kind is NoneType:
        return None
    options = [each for each in get_args(kind) if each is not NoneType] if get_origin(kind) is not dict else []
    if get_origin(kind) is tuple:
        return tuple(convert(options[0], each) for each in value)
    if get_origin(kind) is list:
        return [convert(options[0], each) for each in value]
    if get_origin(kind) is dict:
        key, inner = get_args(kind)
        return {convert(key, name): convert(inner, each) for name, each in value.items()}
    if options:  # X | None
        return convert(options[0], value)
    if kind in PARSERS:
        return PARSERS[kind](value)
    if is_dataclass(kind) and isinstance(value, dict):
        return parse(kind, value)  # type: ignore[arg-type]
    if isinstance(kind, type) and issubclass(kind, Enum | Path):
        return kind(value)
    return value


def parse_job(data: Mapping[str, Any]) -> Job:
    error = data.get("error")
    return parse(
        Job,
        {name: value for name, value in data.items() if name != "position"},  # in JSON, the place in the queue
        position=0,
        params=Params.from_dict(data["params"]),
        failure=parse(Failure, error, message=deserialize(error.get("message", ""), error)) if error else None,
    )


def parse_image(data: Mapping[str, Any], params: Params | None = None) -> Image:
    """A picture; one embedded in a job has only id and size."""
    facts = {"flag": data["flag"]} if data.get("flag") else {}
    return parse(Image, data, params=params or Params.from_dict(data["params"]), facts=facts)


def parse_progress(data: Mapping[str, Any]) -> BatchProgress:
    batch = parse(Batch, {name: value for name, value in data.items() if name != "grid"})
    counts = {State(state): count for state, count in data["counts"].items()}
    return BatchProgress(batch, counts, data.get("done_at"), data.get("warning", ""))


def parse_snapshot(data: Mapping[str, Any]) -> Snapshot:
    seen = [*data["running"], *data["waiting"]]
    return parse(
        Snapshot,
        data,
        eta={each["id"]: each["eta"] for each in seen if each["eta"] is not None},
        total_eta=data["eta"],
    )


def parse_download(data: Mapping[str, Any]) -> Download:
    error = data.get("error") or {}
    problem = deserialize(error.get("message", ""), error) if error else ""
    return parse(Download, data, error_kind=error.get("kind", ""), error_message=problem)


#: Parsers of types whose JSON is not simply their fields; see ``operations.answers``.
PARSERS: dict[Any, Callable[[Any], Any]] = {
    Job: parse_job,
    Image: parse_image,
    BatchProgress: parse_progress,
    Snapshot: parse_snapshot,
    Download: parse_download,
    RemovedModel: lambda content: RemovedModel(content["id"], "", content["message"]),
    BatchEdit: lambda content: BatchEdit(content["changed"], content["warnings"]),
}
