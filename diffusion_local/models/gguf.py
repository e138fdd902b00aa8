"""Reads the header of a GGUF file, its metadata and tensors, without the weights.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Shapes are in PyTorch's order, with the fastest dimension
last. Of the metadata's arrays, such as a tokenizer's words, only the length is kept, except for small numeric ones.
"""

import mmap
import struct
from dataclasses import replace
from pathlib import Path
from typing import Final

from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.headers import (
    BITS,
    GGUF,
    MAX_LENGTH,
    MAX_TENSORS,
    Header,
    Tensor,
    checked_name,
    truncated,
)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ENTRIES, MAX_TEXT, MAX_ITEMS = 10_000, 1_000_000, 4_000_000
#: ``struct`` format of a metadata value, by its type.
SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
#: Tensor types: name, values per block, and bytes per block.
TENSOR_TYPES: Final = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
BITS.update({name: size * 8 / block for name, block, size in TENSOR_TYPES.values() if block > 1})


class Reader:
    """Reads consecutive values. Raises IndexError past the end, ValueError for invalid values."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.at = 0
        self._items = 0

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        if self.at + size > len(self._content):
            raise IndexError
        (value,) = struct.unpack_from(form, self._content, self.at)
        self.at += size
        return int(value) if form not in ("<f", "<d") else 0

    def length(self, most: int) -> int:
        value = self.number("<Q")
        if value > most:
            raise ValueError("too many")
        return value

    def text(self) -> str:
        length = self.length(MAX_TEXT)
        if self.at + length > len(self._content):
            raise IndexError
        self.at += length
        return self._content[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> str:
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            return self._array()
        return str(self.number(SCALARS[kind]))

    def _array(self) -> str:
        """A small array of numbers as ``1,2,3``; other arrays are skipped and returned as ``[length]``."""
        kind, count = self.number("<I"), self.length(MAX_ITEMS)
        self._items += count
        if self._items > MAX_ITEMS:
            raise ValueError("too many")
        if kind == TEXT:
            for _ in range(count):
                self.at += 8 + self._peek()
            return f"[{count}]"
        size = struct.calcsize(SCALARS[kind])
        if count <= 16:
            return ",".join(str(self.number(SCALARS[kind])) for _ in range(count))
        self.at += size * count
        if self.at > len(self._content):
            raise IndexError
        return f"[{count}]"

    def _peek(self) -> int:
        if self.at + 8 > len(self._content):
            raise IndexError
        length: int = struct.unpack_from("<Q", self._content, self.at)[0]
        if length > MAX_TEXT:
            raise ValueError("too long")
        return length


def read_gguf(path: Path, name: str = "") -> Header:
    """Read a header. Raises ModelUnavailable, naming the file, if it is missing, damaged or truncated."""
    name = name or path.name
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return read(Reader(content), path, len(content))
    except FileNotFoundError:
        raise ModelUnavailable(message("model_file_missing", name=name)) from None
    except OSError as error:
        raise ModelUnavailable(message("file_unreadable", name=name, error=error.strerror)) from None
    except (IndexError, EOFError):
        raise ModelUnavailable(truncated(name)) from None
    except (ValueError, KeyError, struct.error):
        raise ModelUnavailable(message("file_gguf_damaged", name=name)) from None


def read(reader: Reader, path: Path, size: int) -> Header:
    reader.at = len(MAGIC)
    if reader.number("<I") not in VERSIONS:
        raise ValueError("another version")
    count, entries = reader.length(MAX_TENSORS), reader.length(MAX_ENTRIES)
    metadata = {}
    for _ in range(entries):
        key = reader.text()
        metadata[key] = reader.value(reader.number("<I"))
    positions = []
    for _ in range(count):
        key, dimensions = checked_name(reader.text()), reader.number("<I")
        if dimensions > 8:
            raise ValueError("no such shape")
        shape = tuple(reversed([reader.length(MAX_LENGTH) for _ in range(dimensions)]))
        kind = TENSOR_TYPES[reader.number("<I")]
        positions.append((key, Tensor(kind[0], original_shape(metadata, key, shape), reader.number("<Q"))))
    align = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT)) or DEFAULT_ALIGNMENT
    start = -(-reader.at // align) * align
    tensors = {key: replace(tensor, start=start + tensor.start) for key, tensor in positions}
    if size < max((tensor.start + tensor.bytes for tensor in tensors.values()), default=0):
        raise IndexError
    return Header(tensors, metadata, size, GGUF, path)


def original_shape(metadata: dict[str, str], name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The original shape of a tensor that a converter flattened to fit GGUF's blocks, as recorded in the metadata."""
    noted = metadata.get(f"comfy.gguf.orig_shape.{name}", "")
    lengths = tuple(int(each) for each in noted.split(",") if each.isdigit())
    product = 1
    for length in lengths:
        product *= length
    return lengths if lengths and product == Tensor("", shape).count else shape
