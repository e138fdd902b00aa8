"""Results of operations as JSON, as sent by HTTP and Gradio and printed with ``--json``."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

from diffusion_local import serializers
from diffusion_local.batches.service import BatchEdit
from diffusion_local.domain import Image, Job, Snapshot
from diffusion_local.gallery.sources import Source
from diffusion_local.hub.downloads import Download
from diffusion_local.models.adapters import Adapter
from diffusion_local.models.catalog import Model
from diffusion_local.models.service import RemovedModel
from diffusion_local.notify.deliveries import Delivery
from diffusion_local.operations import registry
from diffusion_local.operations.operation import After, Answer, AsField, Constant, File, Operation, Paged
from diffusion_local.queue.batches import BatchProgress
from diffusion_local.reports.report import Report
from diffusion_local.serializers import Json


def removed_json(removed: RemovedModel) -> Json:
    """A model removed from the catalogue, without its file path."""
    return {"id": removed.id, "message": removed.words}


def edit_json(edited: BatchEdit) -> Json:
    return {"changed": edited.count, "warnings": edited.warnings}


def source_json(source: Source) -> Json:
    return asdict(source) | {"url": serializers.source_url(source.id)}


def models_json(studio: Any, models: list[Model]) -> list[Json]:
    """Models, each with its memory plan for every device."""
    plans = studio.library.plans(*models) if models else {}
    return [serializers.model(each, plans.get(each.id, [])) for each in models]


#: Serializers of types whose JSON is not simply their fields.
SERIALIZERS: dict[type, Callable[[Any], Json]] = {
    Image: serializers.image,
    BatchProgress: serializers.progress,
    Adapter: serializers.adapter,
    Download: serializers.download,
    Delivery: serializers.delivery,
    Snapshot: serializers.queue,
    RemovedModel: removed_json,
    BatchEdit: edit_json,
    Source: source_json,
    Report: Report.to_dict,
}
#: Serializers of types whose JSON needs further reads, which are made for many objects at once.
BULK_SERIALIZERS: dict[type, Callable[[Any, list[Any]], list[Json]]] = {
    Job: serializers.with_places,
    Model: models_json,
}


def as_json(studio: Any, value: Any) -> Any:
    """Convert any result of a Studio method to JSON-compatible data."""
    if isinstance(value, list | tuple):
        if value and type(value[0]) in BULK_SERIALIZERS:
            return BULK_SERIALIZERS[type(value[0])](studio, list(value))
        return [as_json(studio, each) for each in value]
    if isinstance(value, dict):
        return {str(name): as_json(studio, each) for name, each in value.items()}
    if type(value) in BULK_SERIALIZERS:
        return as_json(studio, [value])[0]
    if type(value) in SERIALIZERS:
        return SERIALIZERS[type(value)](value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def answer_json(studio: Any, operation: Operation, answer: Answer, sent: dict[str, Any], value: Any) -> Json:
    """The JSON object of an operation's result. ``sent``: the call's arguments; ``value``: what the method returned."""
    match answer:
        case Constant(content=content):
            return content
        case AsField(name=name):
            return {name: as_json(studio, list(value) if isinstance(value, Iterator) else value)}
        case Paged(name=name):
            return {name: as_json(studio, value), "next": next_cursor(operation, sent, value)}
        case After(operation=name, also=also):
            after = registry.OPERATIONS[name]
            known = sent | ({"job_id": sent["job_ids"][0]} if sent.get("job_ids") else {})
            arguments = {each.name: known[each.name] for each in registry.arguments(after) if each.name in known}
            further = answer_json(studio, after, after.answer, arguments, registry.call(studio, after, arguments))
            return further | as_json(studio, value) if also else further
        case File():
            return {"text": "".join(value)}
    return as_json(studio, value)


def next_cursor(operation: Operation, arguments: dict[str, Any], page: list[Any]) -> str | None:
    """Cursor of the next page; None after the last one."""
    limit = arguments.get("limit", registry.signature(operation.name).parameters["limit"].default)
    if not page or len(page) != limit or arguments.get("ids"):
        return None
    last = page[-1]
    return last.batch.id if isinstance(last, BatchProgress) else last.id
