"""Where the bytes of the gallery are kept: what a backend must do, and one that keeps everything in memory.

Keys are relative paths with ``/`` whose first part is an ``Area``: ``gallery/2026/11/22/<id>.png``,
``sources/ab/<sha256>.png``. Nobody but a backend knows what folder or bucket an area is.
"""

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple, Protocol

from diffusion_local.errors import DiskFull, echo
from diffusion_local.messages import message

CHUNK = 256 * 1024
#: Writes the content of a blob to an open file.
Write = Callable[[IO[bytes]], object]


class Area(StrEnum):
    """The first part of every key."""

    GALLERY = "gallery"
    SOURCES = "sources"
    PREVIEWS = "previews"
    SHEETS = "sheets"
    REPORTS = "reports"
    STRAYS = "strays"


AREAS = frozenset(map(str, Area))


class Stat(NamedTuple):
    """A blob's key, its size in bytes, and when it was last written or touched, in seconds since the epoch."""

    key: str
    size: int
    modified: float


class Blobs(Protocol):
    """A backend. Reads of a key that is absent raise FileNotFoundError; other faults raise StorageProblem or OSError.

    ``tests/gallery/test_blobs.py`` is the contract.
    """

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        """Store what ``write`` writes, whole or not at all, and return its size; an older blob is replaced.

        ``durable`` content survives a power cut once this returns. ``reserve`` is the number of bytes that must be
        free before. Raises StorageProblem, DiskFull if there is no room, and whatever ``write`` raises.
        """
        ...

    def open(self, key: str) -> BinaryIO:
        """A seekable file of the content as it is now; a later write does not change it."""
        ...

    def stat(self, key: str) -> Stat | None:
        """None if there is no such blob."""
        ...

    def list(self, prefix: str) -> Iterator[Stat]:
        """Every whole blob whose key begins with ``prefix``, in the order of keys."""
        ...

    def touch(self, key: str) -> None:
        """Set its time to now; an absent one is left alone."""
        ...

    def move(self, key: str, target: str) -> None:
        """Give a blob another key. What was stored under ``target`` is replaced."""
        ...

    def delete(self, key: str) -> None:
        """Delete a blob, if it is there."""
        ...

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        """Delete what writers of more than ``seconds`` ago left half-written when they died."""
        ...

    def free_bytes(self) -> int:
        """Free bytes for pictures; a number beyond any size where the backend has no limit. Raises StorageProblem."""
        ...

    def probe(self, prefix: str, size: int) -> None:
        """Write ``size`` bytes to a new blob below ``prefix`` and delete it. Raises StorageProblem."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file of a key on this machine, whether or not it exists; None if the backend has no files."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One blob as its readers use it. It need not exist: methods that read then raise FileNotFoundError."""

    blobs: Blobs
    key: str

    def __str__(self) -> str:
        return str(self.local_path or self.key)

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def local_path(self) -> Path | None:
        return self.blobs.local_path(self.key)

    def exists(self) -> bool:
        return self.blobs.stat(self.key) is not None

    def stat(self) -> Stat:
        found = self.blobs.stat(self.key)
        if found is None:
            raise missing(self.key)
        return found

    def open(self) -> BinaryIO:
        return self.blobs.open(self.key)

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def pieces(self, size: int = CHUNK) -> Iterator[bytes]:
        """The content in pieces of at most ``size`` bytes."""
        with self.open() as file:
            while piece := file.read(size):
                yield piece

    def sha256(self) -> str:
        """The content's SHA-256, in hex."""
        digest = sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    def write(self, write: Write, durable: bool = False, reserve: int = 0) -> int:
        """See ``Blobs.write``."""
        return self.blobs.write(self.key, write, durable, reserve)

    def touch(self) -> None:
        self.blobs.touch(self.key)

    def delete(self) -> None:
        self.blobs.delete(self.key)


class MemoryBlobs:
    """Keeps everything in memory, at most ``capacity`` bytes; all is gone when the process ends."""

    def __init__(self, capacity: int = 2**62) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[bytes, float]] = {}

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        checked(key)
        if reserve and self.free_bytes() < reserve:
            raise nearly_full(reserve)
        file = io.BytesIO()
        write(file)
        content = file.getvalue()
        with self._lock:
            if self._used() - self._size(key) + len(content) > self._capacity:
                raise DiskFull
            self._kept[key] = content, time.time()
        return len(content)

    def open(self, key: str) -> BinaryIO:
        with self._lock:
            if checked(key) not in self._kept:
                raise missing(key)
            return io.BytesIO(self._kept[key][0])

    def stat(self, key: str) -> Stat | None:
        with self._lock:
            found = self._kept.get(checked(key))
        return None if found is None else Stat(key, len(found[0]), found[1])

    def list(self, prefix: str) -> Iterator[Stat]:
        with self._lock:
            found = [Stat(key, len(each), at) for key, (each, at) in self._kept.items() if key.startswith(prefix)]
        yield from sorted(found)

    def touch(self, key: str) -> None:
        with self._lock:
            if checked(key) in self._kept:
                self._kept[key] = self._kept[key][0], time.time()

    def move(self, key: str, target: str) -> None:
        checked(target)
        with self._lock:
            if key not in self._kept:
                raise missing(key)
            self._kept[target] = self._kept.pop(key)

    def delete(self, key: str) -> None:
        with self._lock:
            self._kept.pop(checked(key), None)

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        """Nothing is ever half-written here."""

    def free_bytes(self) -> int:
        with self._lock:
            return self._capacity - self._used()

    def probe(self, prefix: str, size: int) -> None:
        checked(prefix)
        if self.free_bytes() < size:
            raise DiskFull

    def local_path(self, key: str) -> Path | None:
        return None

    def _used(self) -> int:
        return sum(len(content) for content, _ in self._kept.values())

    def _size(self, key: str) -> int:
        return len(self._kept[key][0]) if key in self._kept else 0


def checked(key: str) -> str:
    """The key, if it is one. Raises ValueError for what would lead out of its area."""
    area, _, rest = key.partition("/")
    if area not in AREAS or "\\" in rest or "\0" in rest or any(part[:1] in ("", ".") for part in rest.split("/")):
        raise ValueError(f"not a key: {echo(key)}")
    return key


def missing(key: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def nearly_full(reserve: int) -> DiskFull:
    """What to say where less than the reserve, in bytes, is free."""
    return DiskFull(message("storage_low", reserve=reserve // 10**6))
