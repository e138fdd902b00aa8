"""Lookup of declared operations, combined with the signatures of their methods."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, get_args, get_origin

from diffusion_local.operations import batches, gallery, jobs, system
from diffusion_local.operations.operation import Operation, Route
from diffusion_local.options.signature import options_of

#: All operations by name: ``submit`` (of the Studio itself), ``lists.check`` (of a part).
OPERATIONS: dict[str, Operation] = {}
#: Methods by operation name, filled when their classes are imported; see ``authority.guarded``.
_METHODS: dict[str, Any] = {}

#: Default descriptions of arguments.
ARGUMENT_MEANINGS = {
    "job_id": "a job's id",
    "job_ids": "each job by its id",
    "batch_id": "every job of this batch",
    "image_ids": "each picture by its id",
    "count": "pictures to make; in a list, per line that does not set its own",
    "name": "of the batch, for people",
    "priority": "-100 to 100, higher runs first",
    "value": "-100 to 100, higher runs first",
    "lane": "the batch lane runs after the interactive one",
    "idempotency_key": "sent twice it makes one batch",
    "give_back": "return a running picture to the queue at its next step, else it is finished",
    "before": "`next` of the page before",
    "prompt": "what the picture shows; an upscale needs none",
    "x": 'columns: a field with its values; "prompt" replaces its first one',
    "y": "rows",
    "z": "grids below each other",
    "window": "of the batch lane; empty is always",
    "format": "text, csv or jsonl",
    "expand": "how {a|b} and __name__ expand: random, all or no",
    "expansion_seed": "draws the same wildcards and seeds again",
    "skip_bad_lines": "enqueue the good lines; otherwise one bad line rejects the whole list",
}
ARGUMENT_EXAMPLES = {"prompt": "a red apple", "x": "steps: 6,12", "y": "prompt: apple,pear", "z": "seed: 1-3"}
ARGUMENT_EXAMPLES |= {"window": "23:00-07:00"}


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an operation. ``name``: for callers; ``parameter``: name in the method; ``default``:
    ``inspect.Parameter.empty`` if required; ``kind``: type in requests.
    """

    name: str
    parameter: str
    kind: Any
    default: Any = inspect.Parameter.empty
    meaning: str = ""
    example: Any = None

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def declare(part: str, operations: dict[str, Operation]) -> None:
    """Register the operations of a part of the Studio, "" for the Studio itself."""
    for verb, each in operations.items():
        name = f"{part}.{verb}".lstrip(".")
        OPERATIONS[name] = replace(each, name=name, doc=inspect.cleandoc(each.doc))


declare("", jobs.JOB_OPERATIONS)
declare("queue", jobs.QUEUE_OPERATIONS)
for _parts in (batches.OPERATIONS_BY_PART, gallery.OPERATIONS_BY_PART, system.OPERATIONS_BY_PART):
    for _part, _operations in _parts.items():
        declare(_part, _operations)


def operation_names(part: str) -> set[str]:
    """Names of a part's operations."""
    split = (name.rpartition(".") for name in OPERATIONS)
    return {verb for found, _, verb in split if found == part}


def register_method(name: str, method: Any) -> None:
    """Record the method or property of an operation."""
    _METHODS[name] = method


def signature(name: str) -> inspect.Signature:
    return inspect.signature(_METHODS[name], eval_str=True)


def return_type(name: str) -> Any:
    """Return type of an operation's method, with ``Sequence`` replaced by ``list``."""
    kind = signature(name).return_annotation
    return list.__class_getitem__(get_args(kind)) if get_origin(kind) is Sequence else kind


def arguments(operation: Operation, takes: str | None = None) -> list[Argument]:
    """The arguments that an interface offers, in order: ``takes``, or the operation's own."""
    declared = list(signature(operation.name).parameters.values())[1:]
    own = {each.name: each for each in declared if each.kind is not each.VAR_KEYWORD}
    if takes is None:
        takes = operation.takes
    if takes is None:
        takes = " ".join("*" if each.kind is each.VAR_KEYWORD else each.name for each in declared)
    chosen: list[Argument] = []
    for token in takes.split():
        if token.startswith("*"):
            skipped = {*own, token.removeprefix("*-")} if token != "*" else set(own) - {"seed"}
            chosen += [each for each in options(operation) if each.name not in skipped]
            continue
        if token == "...":
            named = {each.parameter for each in chosen}
            chosen += [argument(operation, name, name, own) for name in own if name not in named]
            continue
        name, _, parameter = token.partition("=")
        chosen.append(argument(operation, name, parameter or name, own))
    return chosen


def argument(operation: Operation, name: str, parameter: str, own: dict[str, inspect.Parameter]) -> Argument:
    meaning = operation.meanings.get(name) or ARGUMENT_MEANINGS.get(name, "")
    if parameter == "job_id" and parameter not in own:  # one of job_ids
        return Argument(name, "job_ids", str, "", meaning)
    if parameter not in own:
        option = next((each for each in options(operation) if each.name == parameter), None)
        if option is None:
            raise LookupError(
                f"The declaration of {operation.name} offers {parameter}, which the method does not take."
            )
        return replace(option, name=name)
    declared = own[parameter]
    default = declared.default
    if default == () and default is not declared.empty:
        default = None
    return Argument(
        name, parameter, request_type(declared.annotation, default), default, meaning, ARGUMENT_EXAMPLES.get(name)
    )


def options(operation: Operation) -> list[Argument]:
    """Keyword options of an operation; their default is None."""
    named = operation.options.split()
    return [
        Argument(each.name, each.name, each.request_type | None, None, each.meaning, each.example)
        for each in options_of("picture" in named, "batch" in named)
    ]


def request_type(kind: Any, default: Any) -> Any:
    """Type of an argument in requests: a list for a sequence, text for a file."""
    if get_origin(kind) is not None and get_origin(kind) in (Sequence, list):
        return list[str] | None if default is None else list[str]
    if bytes in get_args(kind):
        return str
    return kind


def endpoint(operation: Operation) -> tuple[str, list[Argument]]:
    """(name, arguments) of an operation's Gradio endpoint."""
    name, _, takes = operation.endpoint.removesuffix(")").partition("(")
    return name, arguments(operation, takes or None)


def method_arguments(sent: dict[str, Any], offered: list[Argument]) -> dict[str, Any]:
    """Keyword arguments of a method from a caller's values; None counts as absent.

    Raises ValueError for an invalid enumeration value.
    """
    values: dict[str, Any] = {}
    for each in offered:
        value = sent.get(each.name)
        if value is None or (each.parameter == "job_ids" and not value):
            continue
        if each.parameter == "job_ids" and each.kind is str:
            value = [value]
        if isinstance(each.kind, type) and issubclass(each.kind, Enum):
            value = each.kind(value)
        values[each.parameter] = value
    return values


def method(studio: Any, operation: Operation) -> Any:
    """The bound method of an operation on a Studio."""
    for part in operation.name.split("."):
        studio = getattr(studio, part)
    return studio


def call(studio: Any, operation: Operation, arguments: dict[str, Any]) -> Any:
    """Execute an operation with keyword arguments from ``method_arguments``."""
    rest = dict(arguments)
    alone = [each.name for each in signature(operation.name).parameters.values() if each.kind is each.POSITIONAL_ONLY]
    positional = [rest.pop(name) for name in alone if name in rest]
    return method(studio, operation)(*positional, **rest)


def path_arguments(route: Route) -> list[str]:
    """Arguments in a route's path."""
    return re.findall(r"{(\w+)}", route.path)
