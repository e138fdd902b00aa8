"""Storage of the gallery's bytes: the backend interface, an in-memory backend, and resumable copying from one
backend to another.

Keys are relative paths with ``/`` whose first part is an ``Area``: ``gallery/2026/11/22/<id>.png``,
``sources/ab/<sha256>.png``. Only a backend knows which folder or bucket an area is.
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

from diffusion_local.errors import Conflict, DiskFull, StorageProblem, echo
from diffusion_local.messages import message

READ_CHUNK = 256 * 1024
#: Writes a blob's content to an open file.
Write = Callable[[IO[bytes]], object]


class Area(StrEnum):
    """First part of every key."""

    GALLERY = "gallery"
    SOURCES = "sources"
    PREVIEWS = "previews"
    SHEETS = "sheets"
    REPORTS = "reports"
    STRAYS = "strays"


AREA_NAMES = frozenset(map(str, Area))


class Stat(NamedTuple):
    """A blob's key, its size in bytes, and its last write or touch in seconds since the epoch."""

    key: str
    size: int
    modified: float


class Blobs(Protocol):
    """A storage backend. Reading a missing key raises FileNotFoundError; other faults raise StorageProblem or OSError.

    Contract: ``tests/gallery/test_blobs.py``.
    """

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        """Store what ``write`` writes, atomically, replacing an older blob; returns the size in bytes.

        ``durable`` content survives a power cut once this returns. ``reserve``: bytes that must be free beforehand.
        Raises StorageProblem, DiskFull, and whatever ``write`` raises.
        """
        ...

    def open(self, key: str) -> BinaryIO:
        """A seekable file of the current content; later writes do not affect it."""
        ...

    def stat(self, key: str) -> Stat | None:
        """Size and time of a blob; None if it does not exist."""
        ...

    def list(self, prefix: str) -> Iterator[Stat]:
        """All complete blobs whose key starts with ``prefix``, sorted by key."""
        ...

    def touch(self, key: str) -> None:
        """Set a blob's time to now; no-op if it is missing."""
        ...

    def move(self, key: str, target: str) -> None:
        """Rename a blob, replacing one at ``target``."""
        ...

    def delete(self, key: str) -> None:
        """Delete a blob if it exists."""
        ...

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        """Delete incomplete files that writers left behind more than ``seconds`` ago."""
        ...

    def free_bytes(self) -> int:
        """Free bytes for pictures; a huge number if the backend has no limit. Raises StorageProblem."""
        ...

    def probe(self, prefix: str, size: int) -> None:
        """Write and delete a blob of ``size`` bytes below ``prefix``. Raises StorageProblem."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The local file of a key, existing or not; None if the backend has no files."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Handle of one blob. It need not exist: reading a missing one raises FileNotFoundError."""

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
            raise no_such_key(self.key)
        return found

    def open(self) -> BinaryIO:
        return self.blobs.open(self.key)

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def chunks(self, size: int = READ_CHUNK) -> Iterator[bytes]:
        """The content in chunks of at most ``size`` bytes."""
        with self.open() as file:
            while piece := file.read(size):
                yield piece

    def sha256(self) -> str:
        """SHA-256 of the content, in hex."""
        digest = sha256()
        for piece in self.chunks():
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
    """A backend that keeps at most ``capacity`` bytes in memory until the process ends."""

    def __init__(self, capacity: int = 2**62) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[bytes, float]] = {}

    def write(self, key: str, write: Write, durable: bool = False, reserve: int = 0) -> int:
        check_key(key)
        if reserve and self.free_bytes() < reserve:
            raise disk_full_error(reserve)
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
            if check_key(key) not in self._kept:
                raise no_such_key(key)
            return io.BytesIO(self._kept[key][0])

    def stat(self, key: str) -> Stat | None:
        with self._lock:
            found = self._kept.get(check_key(key))
        return None if found is None else Stat(key, len(found[0]), found[1])

    def list(self, prefix: str) -> Iterator[Stat]:
        with self._lock:
            found = [Stat(key, len(each), at) for key, (each, at) in self._kept.items() if key.startswith(prefix)]
        yield from sorted(found)

    def touch(self, key: str) -> None:
        with self._lock:
            if check_key(key) in self._kept:
                self._kept[key] = self._kept[key][0], time.time()

    def move(self, key: str, target: str) -> None:
        check_key(target)
        with self._lock:
            if key not in self._kept:
                raise no_such_key(key)
            self._kept[target] = self._kept.pop(key)

    def delete(self, key: str) -> None:
        with self._lock:
            self._kept.pop(check_key(key), None)

    def drop_unfinished(self, area: Area, seconds: float) -> None:
        """No-op: writes are atomic."""

    def free_bytes(self) -> int:
        with self._lock:
            return self._capacity - self._used()

    def probe(self, prefix: str, size: int) -> None:
        check_key(prefix)
        if self.free_bytes() < size:
            raise DiskFull

    def local_path(self, key: str) -> Path | None:
        return None

    def _used(self) -> int:
        return sum(len(content) for content, _ in self._kept.values())

    def _size(self, key: str) -> int:
        return len(self._kept[key][0]) if key in self._kept else 0


def check_key(key: str) -> str:
    """The key if it is valid. Raises ValueError if it could leave its area."""
    area, _, rest = key.partition("/")
    if area not in AREA_NAMES or "\\" in rest or "\0" in rest or any(part[:1] in ("", ".") for part in rest.split("/")):
        raise ValueError(f"not a key: {echo(key)}")
    return key


def no_such_key(key: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)


def disk_full_error(reserve: int) -> DiskFull:
    """The error for less than ``reserve`` free bytes."""
    return DiskFull(message("storage_low", reserve=reserve // 10**6))


#: Areas that are copied: previews are those of running pictures.
COPIED = tuple(area for area in Area if area is not Area.PREVIEWS)


def copy_blobs(source: Blobs, target: Blobs, name: str, report: Callable[[int], object]) -> int:
    """Copy every file; returns their number. ``report`` is called with the number so far.

    Raises Conflict if the target has a file that the source lacks, StorageProblem if a copy differs from its original.
    """
    for area in COPIED:
        for each in target.list(f"{area}/"):
            if source.stat(each.key) is None:
                raise Conflict(message("move_not_empty", place=name))
    copied = 0
    for area in COPIED:
        for each in source.list(f"{area}/"):
            copy_blob(source, target, each.key, each.size)
            copied += 1
            report(copied)
    return copied


def copy_blob(source: Blobs, target: Blobs, key: str, size: int) -> None:
    digest, there = StoredFile(source, key).sha256(), target.stat(key)
    if there is not None and there.size == size and StoredFile(target, key).sha256() == digest:
        return  # copied by an earlier run
    with source.open(key) as file:

        def write(copy: object) -> None:
            while piece := file.read(READ_CHUNK):
                copy.write(piece)  # type: ignore[attr-defined]

        target.write(key, write, durable=True)
    if StoredFile(target, key).sha256() != digest:
        raise StorageProblem(message("move_differs", what=key))
