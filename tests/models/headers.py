"""Headers of model files as they are published, without their weights: names, types and shapes of all tensors.

``headers.jsonl.xz`` has one file a line: its path, the metadata, and by the tensor's name its type and shape. Written
out, the numbers are holes, which take no room on the disk.
"""

import json
import lzma
import math
import struct
from functools import cache
from pathlib import Path
from typing import Any

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
Tensors = dict[str, list[Any]]
GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
GGUF_BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q8_0": (32, 34), "Q4_K": (256, 144),
               "Q6_K": (256, 210)}  # fmt: skip


@cache
def published() -> dict[str, dict[str, Any]]:
    """By path: ``metadata`` and ``tensors``."""
    with lzma.open(Path(__file__).with_name("headers.jsonl.xz"), "rt", encoding="utf-8") as rows:
        return {row["file"]: row for row in map(json.loads, rows)}


def tensors_of(file: str) -> Tensors:
    return dict(published()[file]["tensors"])


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file over a hole."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (kind, shape) in tensors.items():
        size = math.prod(shape) * SIZES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


def write_published(folder: Path, file: str) -> Path:
    row = published()[file]
    return write(folder / file, row["tensors"], row["metadata"])


def write_gguf(path: Path, tensors: Tensors, architecture: str, kind: str = "Q8_0", version: int = 3) -> Path:
    """As converters of diffusion models write it: matrices in blocks, the rest in fp32."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    entries = [text("general.architecture") + struct.pack("<I", 8) + text(architecture)]
    entries.append(text("general.file_type") + struct.pack("<II", 4, 7))
    words = b"".join(text(f"word{number}") for number in range(300))
    entries.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 300) + words)
    infos, at = [], 0
    for name, (_, shape) in tensors.items():
        form = kind if len(shape) == 2 and shape[-1] % GGUF_BLOCKS[kind][0] == 0 else "F32"
        block, size = GGUF_BLOCKS[form]
        infos.append(
            text(name)
            + struct.pack("<I", len(shape))
            + b"".join(struct.pack("<Q", length) for length in reversed(shape))
            + struct.pack("<IQ", GGUF_TYPES[form], at)
        )
        at += -(-(math.prod(shape) // block * size) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(entries)) + b"".join(entries) + b"".join(infos)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(-(-len(head) // 32) * 32 + at)
    return path
