"""The header of a safetensors file: names, types and shapes of its tensors, without reading a weight.

Layout: header length (8 bytes, little endian), header (JSON), then the tensors at the offsets the header gives.
https://huggingface.co/docs/safetensors
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import Message, message

#: The format's own limit for a header, in bytes.
MAX_HEADER = 100_000_000
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
#: Dimensions of a tensor, and numbers in one of them.
MAX_DIMENSIONS, MAX_LENGTH = 16, 2**40
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        product = 1
        for length in self.shape:
            product *= length
        return product


@dataclass(frozen=True, slots=True)
class Header:
    """``metadata`` is what its maker wrote, any text at all; ``size`` is the file's, in bytes."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    size: int

    def memory_bytes(self, float_bytes: int = 2) -> int:
        """Memory of the weights once loaded with floats of so many bytes: 2 is fp16 or bf16, 4 is fp32."""
        return sum(
            tensor.count * (float_bytes if tensor.dtype in FLOATS else ITEM_BYTES.get(tensor.dtype, 1))
            for tensor in self.tensors.values()
        )

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self.tensors.get(name)
        return found.shape if found else None


def read_header(path: Path, name: str = "") -> Header:
    """Raises ModelUnavailable, naming the file, if it is missing, damaged or cut short."""
    name = name or path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            # A true length may begin with these bytes, too; as one, a pickle's are longer than any file.
            if length > size - 8 and (start[:2] == b"PK" or start[:1] == b"\x80"):
                raise ModelUnavailable(message("pickle_renamed", path=name))
            if len(start) == 8 and length > MAX_HEADER:
                raise ValueError("no such header")
            text = file.read(length) if length <= size - 8 else b""
    except FileNotFoundError:
        raise ModelUnavailable(message("model_file_missing", name=name)) from None
    except OSError as error:
        raise ModelUnavailable(message("file_unreadable", name=name, error=error.strerror)) from None
    except ValueError:
        raise ModelUnavailable(damaged(name)) from None
    if len(start) < 8 or length > size - 8:
        raise ModelUnavailable(cut_short(name))
    try:
        content = json.loads(text)
        metadata = content.pop("__metadata__", None) or {}
        tensors = {key: Tensor(str(value["dtype"]), read_shape(value["shape"])) for key, value in content.items()}
        needed = 8 + length + max((int(value["data_offsets"][1]) for value in content.values()), default=0)
        told = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise ModelUnavailable(damaged(name)) from None
    if size < needed:
        raise ModelUnavailable(cut_short(name))
    return Header(tensors, told, size)


def read_shape(lengths: list[Any]) -> tuple[int, ...]:
    """Raises ValueError for a shape that no tensor has: the product of its lengths would take minutes."""
    shape = tuple(int(length) for length in lengths[: MAX_DIMENSIONS + 1])
    if len(shape) > MAX_DIMENSIONS or not all(0 <= length <= MAX_LENGTH for length in shape):
        raise ValueError("no such shape")
    return shape


def damaged(name: str) -> Message:
    return message("model_damaged", name=name)


def cut_short(name: str) -> Message:
    return message("model_cut_short", name=name)
