"""A dispatch by way of JSON: every argument, answer and error is turned into text and back, as over a network."""

import base64
import collections.abc
import dataclasses
import enum
import functools
import inspect
import json
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffusion_local import errors
from diffusion_local.dispatch import Dispatch
from diffusion_local.errors import DiffusionLocalError
from diffusion_local.messages import Message, described, restored

#: The calls of the protocol, by name.
CALLS = {name: call for name, call in vars(Dispatch).items() if inspect.isfunction(call) and not name.startswith("_")}


@functools.cache
def hints(thing: Any) -> dict[str, Any]:
    return get_type_hints(thing)


def plain(value: Any) -> Any:
    """A noun, text, number or bytes as JSON has it. Raises TypeError for anything that could not travel."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Message):
        return described(value) | {"message": str(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A {type(value).__name__} cannot travel.")


def typed(kind: Any, value: Any) -> Any:
    """What ``plain`` was made of, by its declared type."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else typed(next(each for each in inner if each is not type(None)), value)
    if origin in (list, collections.abc.Sequence):
        return [typed(inner[0], each) for each in value]
    if origin is tuple:
        return tuple(typed(inner[0], each) for each in value)
    if origin is dict:
        return {key: typed(inner[1], each) for key, each in value.items()}
    if kind is str and isinstance(value, dict):
        return restored(value["message"], value)
    if kind is bytes:
        return base64.b64decode(value)
    if dataclasses.is_dataclass(kind):
        return kind(**{name: typed(hints(kind)[name], each) for name, each in value.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    assert value is None if kind is type(None) else isinstance(value, kind | int if kind is float else kind), kind
    return value


def ask(far: Dispatch, text: str) -> str:
    """The other end: read a request, make the call, write the answer."""
    request = json.loads(text)
    kinds = hints(CALLS[request["call"]])
    arguments = {name: typed(kinds[name], value) for name, value in request["arguments"].items()}
    try:
        answer = getattr(far, request["call"])(**arguments)
    except DiffusionLocalError as error:
        return json.dumps({"error": type(error).__name__, "message": plain(error.message)})
    return json.dumps({"answer": plain(answer)})


class Wire:
    """See ``Dispatch``; ``far`` makes the calls."""

    def __init__(self, far: Dispatch) -> None:
        self._far = far

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in CALLS:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            _, *given = inspect.signature(CALLS[name]).bind(self, *args, **kwargs).arguments.items()
            arguments = {key: plain(value) for key, value in given}
            answer = json.loads(ask(self._far, json.dumps({"call": name, "arguments": arguments})))
            if "error" in answer:
                raise getattr(errors, answer["error"])(typed(str, answer["message"]))
            return typed(hints(CALLS[name]).get("return"), answer["answer"])

        return call
