"""Arguments of tools: JSON schemas derived from the registry of operations and the option table, and validation."""

from collections.abc import Iterable
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.operations import registry
from diffusion_local.operations.registry import OPERATIONS, Argument
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS, PICTURES
from diffusion_local.options.types import Kind
from diffusion_local.serializers import Json
from diffusion_local.web.api.schemas import model_of
from diffusion_local.web.error_responses import of_validation


def of_operation(name: str, takes: str) -> list[Argument]:
    """Arguments of an operation, as ``registry.arguments`` lists them."""
    return registry.arguments(OPERATIONS[name], takes)


def of_picture(*kinds: Kind, without: Iterable[str] = ()) -> list[Argument]:
    """The options that apply to these kinds of work, except the kind itself and those that hold pictures."""
    left_out = {"kind", *PICTURES, *without}
    offered = registry.options(OPERATIONS["submit"])
    return [
        each
        for each in offered
        if each.name in OPTIONS and each.name not in left_out and set(kinds) & set(OPTIONS[each.name].kinds)
    ]


def of_batch() -> list[Argument]:
    return [each for each in registry.options(OPERATIONS["submit"]) if each.name in BATCH_OPTIONS]


def model_for(tool: str, offered: list[Argument]) -> type[BaseModel]:
    return model_of("".join(part.capitalize() for part in tool.split("_")), offered)


def schema_of(model: type[BaseModel]) -> Json:
    """The JSON schema of a tool's arguments, with the limits and choices of the table of options."""
    schema = model.model_json_schema()
    schema.pop("title", None)
    for name, declared in schema["properties"].items():
        declared.pop("title", None)
        if declared.get("default", ...) is None:
            del declared["default"]
        not_null(declared)
        if name in OPTIONS and OPTIONS[name].choices:
            declared["enum"] = [str(each) for each in OPTIONS[name].choices]
    return schema


def not_null(declared: Json) -> None:
    """Remove null from a schema: it is accepted, but means the same as an absent argument."""
    alternatives = [each for each in declared.pop("anyOf", []) if each != {"type": "null"}]
    if len(alternatives) == 1:
        declared |= alternatives[0]
    elif alternatives:
        declared["anyOf"] = alternatives


def output_schema(kind: Any) -> Json:
    """The JSON schema of a result, without examples, which cost agents more to read than they explain."""
    schema = TypeAdapter(kind).json_schema()
    for declared in (schema, *schema.get("$defs", {}).values()):
        declared.pop("examples", None)
        for each in declared.get("properties", {}).values():
            each.pop("examples", None)
    return schema if schema.get("type") == "object" else {"type": "object"} | schema


def validated(model: type[BaseModel], arguments: Any) -> dict[str, Any]:
    """The given arguments without null values. Raises InvalidParams with the field's name."""
    try:
        checked = model.model_validate({} if arguments is None else arguments)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise InvalidParams(str(first["loc"][-1]), message("field_unknown")) from None
        problem = RequestValidationError([first | {"loc": ("arguments", *first["loc"])}])
        raise of_validation(problem) from None
    return {name: value for name, value in checked.model_dump().items() if value is not None}
