"""Types of responses in the OpenAPI document, derived from the domain's dataclasses.

Each describes the output of ``answers``; a test compares the two. Limits, choices and meanings of options come from the
option table; examples are domain values as ``serializers`` writes them.
"""

import re
from dataclasses import fields
from enum import Enum
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from diffusion_local import serializers
from diffusion_local.batches.service import BatchEdit
from diffusion_local.domain import PRIORITIES, Batch, Image, Job, Lane, MemoryPlan, Receipt, Snapshot, State
from diffusion_local.errors import echo
from diffusion_local.gallery.quality import FLAGS
from diffusion_local.gallery.sources import Source
from diffusion_local.hub.downloads import Download
from diffusion_local.lists.service import ListReceipt
from diffusion_local.messages import message
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import LOCAL_FIELDS, STARTER_DEFAULTS, STARTER_LIMITS, Model
from diffusion_local.models.description import MODEL_STATES
from diffusion_local.models.index import STARTER
from diffusion_local.models.service import RemovedModel
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.operations import registry
from diffusion_local.operations.operation import After, Answer, AsField, Constant, Operation, Paged
from diffusion_local.operations.registry import OPERATIONS, Argument
from diffusion_local.options.option import Option
from diffusion_local.options.table import OPTIONS, Params, refused_options
from diffusion_local.options.types import Kind
from diffusion_local.options.values import format_bound
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.studio import Studio  # noqa: F401 - the arguments of operations are those of its methods

#: A file in a request body or in a field of a form.
FILE_SCHEMA: dict[str, Any] = {"type": "string", "format": "binary"}
BINARY = {"schema": FILE_SCHEMA}
#: A form with a file as ``file``.
FILE_FORM = {"schema": {"type": "object", "required": ["file"], "properties": {"file": FILE_SCHEMA}}}
IDEMPOTENCY_ARGUMENT = "idempotency_key"  # sent as a header on every route
SEED_OPTIONS = ("seed", "variation_seed")  # -1 means a random one
#: Options without a maximum in responses: for another owner's job, ``steps`` is the total of all passes and tiles.
UNBOUNDED = ("steps",)
#: Further fields of responses to requests that enqueue a batch.
URLS = ("status_url", "stream_url", "result_url", "cancel_url", "jobs_url", "sheet_url")
#: Decimal notation without an exponent, and that of whole numbers.
NUMBER, WHOLE = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?"), re.compile(r"[+-]?\d{1,20}")


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Parameters(BaseModel):
    """Parameters of a query, where all values arrive as text."""

    model_config = ConfigDict(extra="forbid")


def model_of(title: str, offered: list[Argument], base: type[BaseModel] = Body) -> type[BaseModel]:
    """A model with a field per argument; null counts as absent. The examples form one valid request."""
    foreign = refused_options(Kind.TXT2IMG)  # the kind of the example
    fields: dict[str, Any] = {}
    for each in offered:
        kind, default = each.kind, ... if each.required else each.default
        if isinstance(kind, type) and issubclass(kind, Enum):
            kind = Literal[tuple(str(value) for value in kind)]
            default = str(default)
        if is_number(each):
            kind = Annotated[kind, BeforeValidator(partial(as_number, OPTIONS[each.name]))]
        examples = None if each.example is None or each.name in foreign else [each.example]
        field = Field(default, description=each.meaning or None, examples=examples, json_schema_extra=bounds_of(each))
        fields[each.name] = (kind if each.required else kind | None, field)
    return create_model(title, __base__=base, **fields)


def is_number(argument: Argument) -> bool:
    """Whether an argument is a numeric option of a picture."""
    option = OPTIONS.get(argument.name)
    return option is not None and option.is_number


def bounds_of(argument: Argument) -> serializers.Json:
    """``minimum`` and ``maximum`` of an argument that is an option, for a schema of requests; empty for others."""
    option = OPTIONS.get(argument.name)
    if option is None or not option.is_number or argument.kind not in (option.type, option.type | None):
        return {}
    low, high = option.bounds
    return {"minimum": -1 if option.name in SEED_OPTIONS else low, "maximum": high}


def offered(name: str, method: str, path: str) -> list[Argument]:
    """The arguments that a route takes in its body or query."""
    operation = OPERATIONS[name]
    route = operation.route(method, path)
    return [
        each
        for each in registry.arguments(operation, route.takes)
        if each.name not in (IDEMPOTENCY_ARGUMENT, route.content)
    ]


def as_number(option: Option, value: Any) -> Any:
    """The value of a numeric option, which may be written as text, as in lists and forms. Its bounds are checked later:
    a model may have narrower ones. Raises PydanticCustomError with our own message for anything but a number.
    """
    number = value
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        number = int(value) if WHOLE.fullmatch(value.strip()) else float(value)
    is_whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    if isinstance(number, int | float) and not isinstance(number, bool) and (is_whole or option.type is float):
        return int(number) if option.type is int else number
    low, high = map(format_bound, option.bounds)
    problem = message("whole_number" if option.type is int else "number", low=low, high=high, got=echo(value))
    raise PydanticCustomError("not_a_number", "{problem}", {"problem": problem})


def field_of(option: Option, *names: str) -> tuple[Any, Any]:
    """An optional field, read under any of its ``names``."""
    examples = None if option.example is None else [option.example]
    alias = AliasChoices(*names) if names else None
    kind = option.request_type
    if option.is_number:
        kind = Annotated[kind, BeforeValidator(partial(as_number, option))]
    return kind | None, Field(None, description=option.meaning, examples=examples, validation_alias=alias)


NewJobs = model_of("NewJobs", offered("submit", "POST", "/jobs"))
ListSettings = model_of("ListSettings", offered("lists.check", "POST", "/lists/check"), Parameters)
ListOptions = model_of("ListOptions", offered("lists.submit", "POST", "/lists"), Parameters)


# A model, not a TypedDict: every route has it for a dozen statuses, and pydantic compiles a model only once.
class Problem(BaseModel):
    """The body of every error response."""

    error: serializers.Fault


def typed(title: str, noun: type | None = None, /, *without: str, **more: Any) -> Any:
    """A TypedDict with the fields of a dataclass, except those left out, plus ``more``."""
    hints = get_type_hints(noun) if noun else {}
    fields_of_noun = {each.name: hints[each.name] for each in fields(noun) if each.name not in without} if noun else {}
    return TypedDict(title, fields_of_noun | more)  # type: ignore[operator]


def several(kind: Any) -> Any:
    return list[kind]


def option_type(option: Option, kind: Any) -> Any:
    """The type of an option's value in responses. An option without effect has its default, or 0 or ""."""
    choices = [str(each) for each in option.choices]
    if choices and not option.files and kind is str:
        kind = Literal[tuple(dict.fromkeys([*choices, option.default or ""]))]
    low = high = None
    if option.is_number:
        low, high = option.bounds
        low = low if option.default is None else min(low, option.default)
        high = None if option.name in UNBOUNDED else high
    examples = None if option.example is None else [option.example]
    return Annotated[kind, Field(ge=low, le=high, description=option.meaning, examples=examples)]


ID = Annotated[str, Field(examples=["01JDQ6Y3ZT8V9M5K2W4X7R1B0C"])]
TIME = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-01-31T09:30:00.000Z"])]
COUNT = Annotated[int, Field(ge=0)]
PIXELS = Annotated[int, Field(ge=1)]
SECONDS = Annotated[float, Field(ge=0)]
FLAG_OR_NONE = ("", *FLAGS)
TIMES: dict[str, Any] = {"created_at": TIME, "started_at": TIME | None, "finished_at": TIME | None}


_params_types = get_type_hints(Params)
PARAMS = typed("Params", **{name: option_type(option, _params_types[name]) for name, option in OPTIONS.items()})
FAULT = typed(
    "JobError", kind=str, message=str, cause=NotRequired[str], id=NotRequired[str], params=NotRequired[dict[str, Any]]
)
IMAGE_LINK = typed(
    "ImageLink",
    id=ID,
    url=str,
    public_url=str,
    thumbnail_url=str,
    width=PIXELS,
    height=PIXELS,
    flag=Literal[FLAG_OR_NONE],
)
IMAGE = typed(
    "Image",
    Image,
    *("key", "owner", "facts"),
    **get_type_hints(IMAGE_LINK, include_extras=True),
    job_id=ID,
    bytes=COUNT,
    seconds=SECONDS,
    created_at=TIME,
    trashed_at=TIME | None,
    params=PARAMS,
)
JOB = typed(
    "Job",
    Job,
    *("crashes", "faults", "failure"),
    **TIMES,
    id=ID,
    index=COUNT,
    step=COUNT,
    steps=COUNT,
    attempt=COUNT,
    tries=COUNT,
    priority=Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[1])],
    position=Annotated[int, Field(ge=1)] | None,
    eta=SECONDS | None,
    not_before=TIME | None,
    error=FAULT | None,
    image=IMAGE_LINK | None,
    params=PARAMS,
)
BATCH = typed(
    "Batch",
    Batch,
    *("prediction", "graph"),
    id=ID,
    count=COUNT,
    grid=dict[str, Any] | None,
    counts=dict[State, COUNT],
    finished=bool,
    warning=str,
    created_at=TIME,
    **dict.fromkeys(("start_at", "finish_by", "done_at"), TIME | None),
    **dict.fromkeys(("jobs_url", "stream_url", "images_url", "zip_url", "sheet_url"), str),
)
QUEUE_SHAPE = typed(
    "Queue",
    Snapshot,
    *("total_eta",),
    eta=float | None,
    opens=dict[str, str | None],
    running=several(JOB),
    waiting=several(JOB),
    ended=several(JOB),
)
PLAN = typed("MemoryPlan", MemoryPlan, fits=bool)
MODEL = typed(
    "Model",
    Model,
    *LOCAL_FIELDS,
    state=Literal[MODEL_STATES],
    kinds=list[Kind],
    size_bytes=COUNT,
    memory_bytes=COUNT,
    ready=bool,
    memory_plan=several(PLAN),
)
SCHEMAS: dict[Any, Any] = {
    Job: JOB,
    Image: IMAGE,
    BatchProgress: BATCH,
    Snapshot: QUEUE_SHAPE,
    Model: MODEL,
    Adapter: typed("Adapter", Adapter, "path", ready=bool),
    Download: typed("Download", Download, "error_kind", "error_message", error=FAULT | None),
    Delivery: typed("Delivery", Delivery, "payload"),
    RemovedModel: typed("Removed", id=str, message=str),
    BatchEdit: typed("BatchEdit", changed=int, warnings=list[str]),
    Source: typed("Source", Source, url=str),
}
LOCATION: dict[str, Any] = dict.fromkeys(URLS, str) | {"finished": bool}
ACCEPTED = {
    Receipt: typed("Accepted", Receipt, **LOCATION),
    ListReceipt: typed("ListAccepted", ListReceipt, **LOCATION),
}


def examples() -> dict[str, serializers.Json]:
    """A finished batch of one picture with its job and image, and the starter model, by schema."""
    ident, at = get_args(ID)[1].examples[0], get_args(TIME)[1].examples[0]
    params = Params(**{name: each.example if each.required else each.default for name, each in OPTIONS.items()})
    batch = Batch(ident, "apples", "", Lane.INTERACTIVE, 1, at)
    image = Image(ident, ident, "2026-01-31/a-red-apple", params, params.width, params.height, 90_000, at, 2.5)
    job = Job(ident, ident, 0, params, State.DONE, at, step=12, attempt=1, started_at=at, finished_at=at)
    counts = {each: int(each is State.DONE) for each in State}
    model = Model(
        STARTER, "Starter", Path(), "sd", STARTER_DEFAULTS, STARTER_LIMITS, "MIT", architecture="sd", source="bundled"
    )

    with serializers.with_root("", "http://127.0.0.1:7860"):
        return {
            "Job": serializers.job(job, image),
            "Image": serializers.image(image),
            "Batch": serializers.progress(BatchProgress(batch, counts)),
            "Model": serializers.model(model, []),
        }


def schema(kind: Any, known: dict[Any, Any] = SCHEMAS) -> Any:
    """The type of the JSON for a value of a type."""
    if kind in known:
        return known[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return Union[tuple(each if each is NoneType else schema(each, known) for each in inner)]  # noqa: UP007
    if origin is list:
        return several(schema(inner[0], known))
    if origin is dict:
        return dict.__class_getitem__((inner[0], schema(inner[1], known)))
    return kind


def answer_schema(operation: Operation, answer: Answer, status: int = 200) -> Any:
    """The type of the JSON that an operation returns."""
    kind = registry.return_type(operation.name)
    title = "".join(each.capitalize() for each in operation.id.split("_"))
    match answer:
        case Constant(content=content):
            return typed(title, **{name: Literal[value] for name, value in content.items()})
        case AsField(name=name):
            return typed(title, **{name: schema(kind)})
        case Paged(name=name):
            return typed(title, **{name: schema(kind), "next": str | None})
        case After(operation=name, also=also):
            after = registry.OPERATIONS[name]
            found = answer_schema(after, after.answer)
            return typed(title, **get_type_hints(found) | get_type_hints(schema(kind))) if also else found
    if status == 202 and kind in ACCEPTED:
        return ACCEPTED[kind]
    return schema(kind)
