"""Tokenizers of text encoders that come without one: bundled, or found among the user's files.

A tokenizer is a folder with ``tokenizer.json`` (or ``vocab.json`` and ``merges.txt``, or a SentencePiece model) and
``tokenizer_config.json``.
The bundled ones of CLIP, T5 and Qwen are compressed (``assets/tokenizers``) and extracted once per process.
"""

import base64
import json
import lzma
import struct
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_local.errors import echo
from diffusion_local.models.parts import PARTS_BY_ID
from diffusion_local.paths import assets

#: Every tokenizer folder has one of these files.
SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model")
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", *SENTENCEPIECE_FILES)


def bundled(kind: str) -> Path | None:
    """The folder of a tokenizer that comes with the program: ``clip``, ``t5`` or ``qwen``; None for other kinds."""
    return extract(kind) if kind and archive_path(kind).is_file() else None


def tokenizer_of_part(part: str) -> Path | None:
    """The bundled tokenizer of a text encoder, or None."""
    return bundled(PARTS_BY_ID[part].tokenizer) if part in PARTS_BY_ID else None


def is_bundled(kind: str) -> bool:
    return kind != "" and archive_path(kind).is_file()


def archive_path(kind: str) -> Path:
    return assets() / "tokenizers" / f"{kind}.json.xz"


def has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def find_tokenizer(folders: Iterable[Path]) -> Path | None:
    """The first of these folders with a tokenizer."""
    return next((folder for folder in folders if has_vocabulary(folder)), None)


@lru_cache(maxsize=8)
def extract(kind: str) -> Path:
    """Extract a bundled tokenizer to a folder that exists until this process ends."""
    content = json.loads(lzma.decompress(archive_path(kind).read_bytes()))
    folder = Path(_folder().name) / kind
    folder.mkdir(exist_ok=True)
    files = {"tokenizer_config.json": content["tokenizer_config.json"]}
    if "merges" in content:
        files["vocab.json"] = clip_vocabulary(content["symbols"], content["merges"], content["special"])
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *content["merges"], ""]), encoding="utf-8")
    else:
        files["tokenizer.json"] = content["tokenizer.json"]
        files["tokenizer.json"]["model"] |= vocabulary(content["pieces"], content["scores"])
    for name, written in files.items():
        (folder / name).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    return folder


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="diffusion-local-tokenizers-")


def clip_vocabulary(symbols: list[str], merges: list[str], special: list[str]) -> dict[str, int]:
    """The vocabulary of CLIP: symbols of bytes, what each merge ("th e</w>") results in, and special tokens."""
    pieces = [*symbols, *(merge.replace(" ", "") for merge in merges), *special]
    return {piece: number for number, piece in enumerate(pieces)}


def vocabulary(pieces: list[str], scores: str | None) -> dict[str, Any]:
    """The vocabulary in the form of ``tokenizer.json``: with scores (Unigram), or with merges (BPE)."""
    if scores is None:
        return {"vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": merges(pieces)}
    planes, count = base64.b64decode(scores), len(pieces)
    numbers = struct.unpack(
        f"<{count}f", bytes(planes[place * count + at] for at in range(count) for place in range(4))
    )
    return {"vocab": [list(each) for each in zip(pieces, numbers, strict=True)]}


def merges(pieces: list[str]) -> list[list[str]]:
    """The pair from which each piece was merged, reconstructed by applying the merges of earlier pieces."""
    ranks = {piece: number for number, piece in enumerate(pieces)}
    return [split_into_halves(piece, rank, ranks) for piece, rank in ranks.items() if len(piece) > 1]


def split_into_halves(piece: str, rank: int, ranks: dict[str, int]) -> list[str]:
    parts = list(piece)
    while len(parts) > 2:
        pairs = [ranks.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
        best = min(pairs)
        if best >= rank:
            raise ValueError(f"no merge leads to {echo(piece)}")
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
