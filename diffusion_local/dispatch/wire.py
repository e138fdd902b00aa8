"""Encodes calls of a ``Dispatch`` as bytes: the protocol between a remote worker and its studio.

A message is the length of its head (4 bytes, big-endian), the head as JSON, and the binary values in sequence; the
head has ``{"$bytes": length}`` in place of each, in the same order. Values are decoded by the types that ``Dispatch``
declares, so both ends must have the same ``PROTOCOL``; every request states its own.
"""

import collections.abc
import dataclasses
import enum
import functools
import inspect
import json
import struct
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffusion_local import errors
from diffusion_local.dispatch import Dispatch, OutputTerms
from diffusion_local.errors import DiffusionLocalError, InvalidParams
from diffusion_local.messages import Message, deserialize, message, serialize

#: Increased with every change of a call, or of a type in its arguments or result.
PROTOCOL = 5
#: The calls of the protocol, by name.
CALLS = {name: call for name, call in vars(Dispatch).items() if inspect.isfunction(call) and not name.startswith("_")}
BYTES_MARKER = "$bytes"
MAX_HEAD = 8 * 1024 * 1024  # bytes of JSON; the digests of ten thousand files are about 1 MB
#: Media type of requests and answers.
WIRE_MEDIA_TYPE = "application/vnd.diffusion-local.worker"


@dataclasses.dataclass(frozen=True, slots=True)
class SlotGrant:
    """The answer to ``take``. Every other call carries ``session``; ``now`` is the studio's time (UTC)."""

    session: str
    terms: OutputTerms
    now: str


class UnreadableMessage(ValueError):
    """The bytes are not a message of this protocol."""


@functools.cache
def type_hints(annotated: Any) -> dict[str, Any]:
    return get_type_hints(annotated)


#: Signatures of the calls, cached: reading a signature takes longer than transmitting a call.
SIGNATURES = {name: inspect.signature(call) for name, call in CALLS.items()}
NAMES = functools.cache(lambda noun: [each.name for each in dataclasses.fields(noun)])
JSON_TYPES = frozenset({str, int, float, bool, type(None)})


def to_plain(value: Any, blobs: list[bytes]) -> Any:
    """Convert a value to JSON types; bytes are appended to ``blobs``. Raises TypeError for unsupported types."""
    kind = type(value)
    if kind in JSON_TYPES:
        return value
    if dataclasses.is_dataclass(kind):
        found = {name: getattr(value, name) for name in NAMES(kind)}
        return {name: each if type(each) in JSON_TYPES else to_plain(each, blobs) for name, each in found.items()}
    if isinstance(value, Message):
        return serialize(value) | {"message": str(value)}
    if isinstance(value, bytes):
        blobs.append(value)
        return {BYTES_MARKER: len(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [to_plain(each, blobs) for each in value]
    if isinstance(value, dict):
        return {str(key): to_plain(each, blobs) for key, each in value.items()}
    if isinstance(value, str | int | float):
        return value
    raise TypeError(f"A {kind.__name__} cannot travel.")


def from_plain(kind: Any, value: Any, blobs: "collections.abc.Iterator[bytes]") -> Any:
    """Invert ``to_plain``, given the value's declared type. Raises ValueError, TypeError or LookupError."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return from_plain(next(each for each in inner if each is not type(None)), value, blobs)
    if origin in (list, collections.abc.Sequence):
        return [from_plain(inner[0], each, blobs) for each in value]
    if origin is tuple:
        return tuple(from_plain(inner[0], each, blobs) for each in value)
    if origin is dict:
        return {key: from_plain(inner[1], each, blobs) for key, each in value.items()}
    if kind is str and isinstance(value, dict):
        return deserialize(value["message"], value)
    if kind is bytes:
        value[BYTES_MARKER]  # raises for a value that is not binary, before it consumes another value's bytes
        return next(blobs)
    if dataclasses.is_dataclass(kind):
        noun: Any = kind
        return noun(**{name: from_plain(type_hints(noun)[name], each, blobs) for name, each in value.items()})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if value is not None if kind is type(None) else not isinstance(value, (float, int) if kind is float else kind):
        raise TypeError(f"expected {kind}, got {type(value).__name__}")
    return value


def pack(head: dict[str, Any], blobs: list[bytes]) -> bytes:
    text = json.dumps(head).encode()
    return b"".join([struct.pack(">I", len(text)), text, *blobs])


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """(head, binary values). Raises UnreadableMessage."""
    try:
        (length,) = struct.unpack_from(">I", data)
        if length > MAX_HEAD:
            raise ValueError("the head is too long")
        lengths: list[int] = []

        def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            if len(pairs) == 1 and pairs[0][0] == BYTES_MARKER:
                lengths.append(int(pairs[0][1]))
            return dict(pairs)

        head = json.loads(data[4 : 4 + length], object_pairs_hook=note)
    except (struct.error, ValueError, TypeError, RecursionError) as error:
        raise UnreadableMessage(str(error)) from None
    if not isinstance(head, dict) or any(each < 0 for each in lengths) or 4 + length + sum(lengths) != len(data):
        raise UnreadableMessage("the lengths do not add up")
    blobs, start = [], 4 + length
    for each in lengths:
        blobs.append(data[start : start + each])
        start += each
    return head, blobs


def request(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], **head: Any) -> bytes:
    """Encode a call with its arguments; ``head`` holds further fields of the message's head."""
    _, *given = SIGNATURES[name].bind(None, *args, **kwargs).arguments.items()
    blobs: list[bytes] = []
    arguments = {key: to_plain(value, blobs) for key, value in given}
    return pack(head | {"protocol": PROTOCOL, "call": name, "arguments": arguments}, blobs)


def parse_arguments(head: dict[str, Any], blobs: list[bytes]) -> tuple[str, dict[str, Any]]:
    """(call, arguments) of a request. Raises InvalidParams and UnreadableMessage."""
    there = head.get("protocol")
    if there != PROTOCOL:
        known = isinstance(there, int) and there > PROTOCOL
        problem = message("worker_newer" if known else "worker_older", here=PROTOCOL, there=str(there)[:20])
        raise InvalidParams("protocol", problem)
    name, given = head.get("call"), head.get("arguments")
    if not isinstance(name, str) or name not in CALLS or not isinstance(given, dict):
        raise UnreadableMessage("no such call")
    kinds, following = type_hints(CALLS[name]), iter(blobs)
    try:
        arguments = {key: from_plain(kinds[key], value, following) for key, value in given.items() if key != "return"}
        SIGNATURES[name].bind(None, **arguments)
    except (ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
        raise UnreadableMessage(f"{type(error).__name__}: {error}") from None
    return name, arguments


def response(call: Callable[[], Any]) -> bytes:
    """Make a call and encode its answer, or the error that it raised."""
    blobs: list[bytes] = []
    try:
        head = {"answer": to_plain(call(), blobs)}
    except DiffusionLocalError as error:
        blobs = []
        head = {"error": type(error).__name__, "message": to_plain(error.message, blobs)}
        if isinstance(error, InvalidParams):
            head |= {"field": error.field, "message": to_plain(error.problem, blobs)}
    return pack(head, blobs)


def parse_response(name: str, data: bytes) -> Any:
    """Decode the answer to a call. Raises the error that the call raised at the other end, or UnreadableMessage."""
    head, blobs = unpack(data)
    following = iter(blobs)
    try:
        if "error" in head:
            kind, text = getattr(errors, head["error"]), from_plain(str, head["message"], following)
            raise kind(head["field"], text) if "field" in head else kind(text)
        return from_plain(
            SlotGrant if name == "take" else type_hints(CALLS[name]).get("return"), head["answer"], following
        )
    except (ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
        raise UnreadableMessage(f"{type(error).__name__}: {error}") from None
