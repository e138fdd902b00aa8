"""Calls as bytes: what cannot be read is refused, and nothing else happens."""

import json
import struct
from typing import Any

import pytest

from diffusion_local.dispatch import wire
from diffusion_local.errors import InvalidParams


def request(**changes: Any) -> bytes:
    head, blobs = wire.unpack(wire.request("source", (), {"claim": claim(), "source_id": "a"}))
    return wire.pack(head | changes, blobs)


def claim() -> Any:
    from diffusion_local.domain import Claim

    return Claim("job", "attic.cpu0", 3)


def test_a_call_comes_back_as_it_was() -> None:
    name, arguments = wire.parse_arguments(*wire.unpack(request()))
    assert (name, arguments) == ("source", {"claim": claim(), "source_id": "a"})


@pytest.mark.parametrize(
    ("there", "whose"),
    [(99, "studio's machine"), (1, "worker's machine"), (None, "worker's machine"), ("x" * 99, "worker's")],
)
def test_another_version_says_who_must_be_updated(there: Any, whose: str) -> None:
    head, blobs = wire.unpack(request())
    with pytest.raises(InvalidParams, match=f"Update diffusion-local on the {whose}") as raised:
        wire.parse_arguments(head | {"protocol": there}, blobs)
    assert raised.value.field == "protocol"


@pytest.mark.parametrize(
    "changes",
    [
        {"call": "remove_everything"},
        {"call": "__init__"},
        {"call": 7},
        {"arguments": []},
        {"arguments": {"claim": {"job_id": "x"}, "source_id": "a"}},
        {"arguments": {"claim": "x", "source_id": "a"}},
        {"arguments": {"source_id": "a"}},
        {"arguments": {"claim": {"job_id": "x", "worker": "y", "attempt": "1"}, "source_id": "a"}},
        {"arguments": {"claim": None, "source_id": "a", "more": 1}},
    ],
)
def test_what_is_no_call_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.UnreadableMessage):
        wire.parse_arguments(*wire.unpack(request(**changes)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 2**31) + b"{}",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 2) + b"{}" + b"too much",
        struct.pack(">I", 15) + json.dumps({"$bytes": 99}).encode() + b"xx",
        struct.pack(">I", 14) + json.dumps({"$bytes": -1}).encode() + b"",
        struct.pack(">I", 100_000) + b"[" * 100_000,
        struct.pack(">I", wire.MAX_HEAD + 2) + b"{" + b" " * wire.MAX_HEAD + b"}",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=range(11),
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(wire.UnreadableMessage):
        wire.unpack(data)


def test_binary_values_are_not_copied_into_text() -> None:
    picture = bytes(range(256)) * 1000
    data = wire.request("save_preview", (claim(), picture), {})
    assert len(data) < len(picture) + 300
    assert wire.parse_arguments(*wire.unpack(data))[1]["picture"] == picture
