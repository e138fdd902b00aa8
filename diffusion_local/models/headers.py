"""Headers of weight files: tensor names, types and shapes, read without the weights.

A safetensors file consists of the header's length (8 bytes, little endian), the header (JSON), and the tensors at the
offsets that the header lists. https://huggingface.co/docs/safetensors
"""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import Message, message

#: Longest header that is read, in bytes. The format allows more, but no model comes close.
MAX_HEADER = 32_000_000
#: Bits per number, by safetensors dtype; ``models.gguf`` adds GGUF's block types.
BITS: dict[str, float] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U16": 16, "U32": 32, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
#: Limits: dimensions of a tensor, length of a dimension, tensors in a file, and characters of a tensor's name. Names
#: are bounded because the time to match regular expressions grows faster than the name.
MAX_DIMENSIONS, MAX_LENGTH, MAX_TENSORS, MAX_NAME = 16, 2**40, 200_000, 500
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
SAFETENSORS, GGUF, PICKLE = "safetensors", "gguf", "pickle"


@dataclass(slots=True)
class Tensor:
    """A tensor in a file. ``start``: offset of its data in the file, -1 if unknown."""

    dtype: str
    shape: tuple[int, ...]
    start: int = -1

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return int(self.count * BITS.get(self.dtype, 8) // 8)


@dataclass(frozen=True)
class Header:
    """The header of a weight file.

    ``metadata``: arbitrary texts from the file's author; ``size``: size of the file in bytes; ``container``: file
    format (safetensors, gguf or pickle).
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    size: int
    container: str = SAFETENSORS
    path: Path | None = None

    @cached_property
    def names(self) -> list[str]:
        """The names of all tensors in order, for ``bisect``."""
        return sorted(self.tensors)

    @cached_property
    def text(self) -> str:
        """The names of all tensors, one per line: a search for a word here is much faster than one name by name."""
        return "".join(f"{name}\n" for name in self.tensors)

    @cached_property
    def ends(self) -> frozenset[str]:
        """The last word and the last two words of all tensors' names."""
        return ends_of(self.tensors)

    def memory_bytes(self, float_bytes: int = 2) -> int:
        """Size of the loaded weights. ``float_bytes``: 2 for fp16 or bf16, 4 for fp32."""
        return sum(
            tensor.count * float_bytes if tensor.dtype in FLOATS else tensor.bytes for tensor in self.tensors.values()
        )

    def shape(self, name: str) -> tuple[int, ...] | None:
        found = self.tensors.get(name)
        return found.shape if found else None

    def bytes_of(self, name: str, most: int = 4096) -> bytes:
        """Content of a small byte tensor, such as a JSON text; empty if it cannot be read."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.start < 0 or self.path is None or not 0 < tensor.bytes <= most:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(tensor.start)
                return file.read(tensor.bytes)
        except OSError:
            return b""

    def numbers(self, name: str, most: int = 4096) -> tuple[float, ...]:
        """The first values of a small floating-point tensor, read from the file; empty if they cannot be read."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.start < 0 or self.path is None or tensor.dtype not in ("F32", "F16", "BF16"):
            return ()
        count = min(tensor.count, most)
        try:
            with self.path.open("rb") as file:
                file.seek(tensor.start)
                content = file.read(count * int(BITS[tensor.dtype]) // 8)
            if tensor.dtype == "BF16":  # the upper half of fp32
                content = b"".join(b"\0\0" + content[at : at + 2] for at in range(0, len(content), 2))
            return struct.unpack(f"<{count}{'e' if tensor.dtype == 'F16' else 'f'}", content)
        except (OSError, struct.error):
            return ()


def ends_of(names: Iterable[str]) -> frozenset[str]:
    """The last word and the last two words of each name."""
    ends: set[str] = set()
    for name in names:
        words = name.rsplit(".", 2)
        ends.add(words[-1])
        ends.add(".".join(words[-2:]))
    return frozenset(ends)


def read_header(path: Path, name: str = "") -> Header:
    """The header of a safetensors file. Raises ModelUnavailable, naming the file, if it is missing, damaged or
    truncated.
    """
    name = name or path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            # A valid length may also begin with these bytes, but a pickle's, read as a length, exceed any file size.
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
        raise ModelUnavailable(truncated(name))
    try:
        tensors, metadata, end = parse(text, 8 + length)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise ModelUnavailable(damaged(name)) from None
    if size < end:
        raise ModelUnavailable(truncated(name))
    if size > end:  # no program loads such a file
        raise ModelUnavailable(damaged(name))
    return Header(tensors, metadata, size, path=path)


def parse(text: bytes, start: int) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """The tensors, the metadata, and the end of the last tensor in the file. ``start``: offset of the first tensor.

    Raises ValueError, TypeError, KeyError, AttributeError, IndexError or RecursionError for a malformed header.
    """
    content = json.loads(text)
    metadata = content.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("no such metadata")
    if len(content) > MAX_TENSORS:
        raise ValueError("too many tensors")
    "".join(content).encode()  # raises UnicodeEncodeError for names that are no text
    tensors, spans = {}, []
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}  # in bytes
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # most tensors of a model have one of a few shapes
    for name, value in content.items():
        begin, end = value["data_offsets"]
        lengths = tuple(value["shape"])
        shape = shapes.get(lengths)
        if shape is None:
            shape = shapes[lengths] = read_shape(value["shape"])
        dtype = str(value["dtype"])
        tensor = Tensor(dtype, shape, start + begin)
        size = sizes.get((dtype, shape))
        if size is None:
            size = sizes[dtype, shape] = int(tensor.count * BITS[dtype] // 8)
        if not 0 <= begin <= end or size != end - begin:
            raise ValueError("no such place")
        tensors[checked_name(name)] = tensor
        spans.append((begin, end))
    spans.sort()
    if any(later[0] != former[1] for former, later in pairwise([(0, 0), *spans])):
        raise ValueError("gaps between tensors, or overlapping ones")
    texts = {str(key): str(value) for key, value in metadata.items()}
    return tensors, texts, start + max((end for _, end in spans), default=0)


def checked_name(name: str) -> str:
    """Return a tensor name. Raises ValueError if it is too long."""
    if len(name) > MAX_NAME:
        raise ValueError("no such name")
    return name


def read_shape(lengths: list[Any]) -> tuple[int, ...]:
    """Validate a shape. Raises ValueError if it is implausible, since multiplying huge lengths would take minutes."""
    if len(lengths) > MAX_DIMENSIONS or not all(type(each) is int and 0 <= each <= MAX_LENGTH for each in lengths):
        raise ValueError("no such shape")
    return tuple(lengths)


def damaged(name: str) -> Message:
    return message("model_damaged", name=name)


def truncated(name: str) -> Message:
    return message("model_cut_short", name=name)
