"""Parses the API's JSON to domain objects.

Unknown fields of a newer server are ignored; fields that an older server lacks keep their default, or are empty.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from diffusion_local.batches.service import BatchEdit
from diffusion_local.domain import Batch, Failure, Image, Job, Snapshot, State
from diffusion_local.hub.downloads import Download
from diffusion_local.messages import deserialize
from diffusion_local.models.service import RemovedModel
from diffusion_local.options.table import Params
from diffusion_local.queue.batches import BatchProgress

T = TypeVar("T")
EMPTY = {str: "", int: 0, float: 0.0, bool: False, Path: Path()}


def parse(noun: type[T], told: Mapping[str, Any], **known: Any) -> T:
    """Create a dataclass from JSON; ``known`` fields are passed unchanged."""
    values = dict(known)
    for name, kind, empty in field_specs(noun):  # type: ignore[arg-type]
        if name in values:
            continue
        if name in told:
            values[name] = convert(kind, told[name])
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


def parse_job(told: Mapping[str, Any]) -> Job:
    error = told.get("error")
    return parse(
        Job,
        {name: value for name, value in told.items() if name != "position"},  # in JSON, the place in the queue
        position=0,
        params=Params.from_dict(told["params"]),
        failure=parse(Failure, error, message=deserialize(error.get("message", ""), error)) if error else None,
    )


def parse_image(told: Mapping[str, Any], params: Params | None = None) -> Image:
    """A picture; one embedded in a job has only id and size."""
    facts = {"flag": told["flag"]} if told.get("flag") else {}
    return parse(Image, told, params=params or Params.from_dict(told["params"]), facts=facts)


def parse_progress(told: Mapping[str, Any]) -> BatchProgress:
    batch = parse(Batch, {name: value for name, value in told.items() if name != "grid"})
    counts = {State(state): count for state, count in told["counts"].items()}
    return BatchProgress(batch, counts, told.get("done_at"), told.get("warning", ""))


def parse_snapshot(told: Mapping[str, Any]) -> Snapshot:
    seen = [*told["running"], *told["waiting"]]
    return parse(
        Snapshot,
        told,
        eta={each["id"]: each["eta"] for each in seen if each["eta"] is not None},
        total_eta=told["eta"],
    )


def parse_download(told: Mapping[str, Any]) -> Download:
    error = told.get("error") or {}
    problem = deserialize(error.get("message", ""), error) if error else ""
    return parse(Download, told, error_kind=error.get("kind", ""), error_message=problem)


#: Parsers of types whose JSON is not simply their fields; see ``operations.answers``.
PARSERS: dict[Any, Callable[[Any], Any]] = {
    Job: parse_job,
    Image: parse_image,
    BatchProgress: parse_progress,
    Snapshot: parse_snapshot,
    Download: parse_download,
    RemovedModel: lambda told: RemovedModel(told["id"], "", told["message"]),
    BatchEdit: lambda told: BatchEdit(told["changed"], told["warnings"]),
}
