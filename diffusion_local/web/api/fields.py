"""Models of what requests carry, made from the arguments of operations. Only types are checked here; limits are the
Studio's business."""

from enum import Enum
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from diffusion_local.operations import registry
from diffusion_local.operations.registry import OPERATIONS, Argument
from diffusion_local.options.option import Option
from diffusion_local.studio import Studio  # noqa: F401 - the arguments of operations are those of its methods

HEADER = "idempotency_key"  # sent as a header, whatever the route


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Parameters(BaseModel):
    """Of a query, where all values are text at first."""

    model_config = ConfigDict(extra="forbid")


def model_of(title: str, offered: list[Argument], base: type[BaseModel] = Body) -> type[BaseModel]:
    """A model with a field for each argument; null is as if it were left out."""
    fields: dict[str, Any] = {}
    for each in offered:
        kind, default = each.kind, ... if each.required else each.default
        if isinstance(kind, type) and issubclass(kind, Enum):
            kind = Literal[tuple(str(value) for value in kind)]
            default = str(default)
        examples = None if each.example is None else [each.example]
        field = Field(default, description=each.meaning or None, examples=examples)
        fields[each.name] = (kind if each.required else kind | None, field)
    return create_model(title, __base__=base, **fields)


def offered(name: str, method: str, path: str) -> list[Argument]:
    """The arguments that a route takes in its body or query."""
    operation = OPERATIONS[name]
    route = operation.route(method, path)
    return [each for each in registry.arguments(operation, route.takes) if each.name not in (HEADER, route.content)]


def field_of(option: Option, *names: str) -> tuple[Any, Any]:
    """A field that may be left out; with ``names`` it is read under those."""
    examples = None if option.example is None else [option.example]
    alias = AliasChoices(*names) if names else None
    return option.taken | None, Field(None, description=option.meaning, examples=examples, validation_alias=alias)


NewJobs = model_of("NewJobs", offered("submit", "POST", "/jobs"))
ListSettings = model_of("ListSettings", offered("lists.check", "POST", "/lists/check"), Parameters)
ListOptions = model_of("ListOptions", offered("lists.submit", "POST", "/lists"), Parameters)
