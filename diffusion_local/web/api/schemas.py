"""The types of answers in the OpenAPI document, made from the domain's dataclasses.

Each describes what ``answers`` makes of a value; a test compares the two.
"""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from typing_extensions import TypedDict

from diffusion_local.batches.batches import Edited
from diffusion_local.catalog import Model
from diffusion_local.domain import Batch, Image, Job, Params, Receipt, Snapshot, State
from diffusion_local.engine.planning import Plan
from diffusion_local.library import Removed
from diffusion_local.lists.prompt_lists import ListReceipt
from diffusion_local.models.adapters import Adapter
from diffusion_local.operations import registry
from diffusion_local.operations.operation import After, Answer, Constant, Named, Operation, Paged
from diffusion_local.store.batch_rows import Progress
from diffusion_local.store.deliveries import Delivery
from diffusion_local.store.downloads import Download
from diffusion_local.store.sources import Source


def typed(title: str, noun: type | None = None, /, *without: str, **more: Any) -> Any:
    """A TypedDict with the fields of a dataclass, but those left out, and ``more``."""
    hints = get_type_hints(noun) if noun else {}
    kept = {each.name: hints[each.name] for each in fields(noun) if each.name not in without} if noun else {}
    return TypedDict(title, kept | more)  # type: ignore[operator]


def several(kind: Any) -> Any:
    return list[kind]


PARAMS = typed("Params", Params)
FAULT = typed(
    "JobError", kind=str, message=str, cause=NotRequired[str], id=NotRequired[str], params=NotRequired[dict[str, Any]]
)
IMAGE_LINK = typed("ImageLink", id=str, url=str, thumbnail_url=str, width=int, height=int, flag=str)
IMAGE = typed("Image", Image, "key", "owner", "facts", params=PARAMS, url=str, thumbnail_url=str, flag=str)
JOB = typed(
    "Job",
    Job,
    *("crashes", "faults", "failure"),
    steps=int,
    position=int | None,
    eta=float | None,
    error=FAULT | None,
    image=IMAGE_LINK | None,
    params=PARAMS,
)
BATCH = typed(
    "Batch",
    Batch,
    *("prediction",),
    grid=dict[str, Any] | None,
    counts=dict[State, int],
    finished=bool,
    done_at=str | None,
    warning=str,
    **dict.fromkeys(("jobs_url", "stream_url", "images_url", "zip_url", "sheet_url"), str),
)
QUEUE = typed(
    "Queue",
    Snapshot,
    *("total_eta",),
    eta=float | None,
    opens=dict[str, str | None],
    running=several(JOB),
    waiting=several(JOB),
    ended=several(JOB),
)
PLAN = typed("MemoryPlan", Plan, fits=bool)
MODEL = typed("Model", Model, "folder", "file", "scheduler", "probe", ready=bool, memory_plan=several(PLAN))
SCHEMAS: dict[Any, Any] = {
    Job: JOB,
    Image: IMAGE,
    Progress: BATCH,
    Snapshot: QUEUE,
    Model: MODEL,
    Adapter: typed("Adapter", Adapter, "path", ready=bool),
    Download: typed("Download", Download, "error_kind", "error_message", error=FAULT | None),
    Delivery: typed("Delivery", Delivery, "payload"),
    Removed: typed("Removed", id=str, message=str),
    Edited: typed("Edited", changed=int, warnings=list[str]),
    Source: typed("Source", Source, url=str),
}
#: Answers to what enqueues a batch.
WHERE: dict[str, Any] = {"status_url": str, "sheet_url": str, "finished": bool}
ACCEPTED = {Receipt: typed("Accepted", Receipt, **WHERE), ListReceipt: typed("ListAccepted", ListReceipt, **WHERE)}


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
    """The type of the JSON that answers an operation."""
    kind = registry.answer_type(operation.name)
    title = "".join(each.capitalize() for each in operation.name.replace(".", "_").split("_"))
    match answer:
        case Constant(content=content):
            return typed(title, **{name: Literal[value] for name, value in content.items()})
        case Named(name=name):
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
