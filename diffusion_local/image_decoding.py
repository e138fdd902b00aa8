"""Limits on decoding untrusted pictures: memory use, and the number decoded at once.

A PNG of 261 kB can contain 64 megapixels, which take 256 MB decoded. So all code that decodes pictures first takes a
share of one budget (`share`, `budget.taken`), by the size in the picture's header, and waits if it is exhausted.
"""

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import IO, Any

from PIL import Image as PIL
from PIL import PngImagePlugin, TiffImagePlugin, WebPImagePlugin, features  # noqa: F401  # else Pillow loads all plugins

from diffusion_local.errors import Overloaded

#: Two RGBA pictures of 64 megapixels: a decoded one, and a copy while it is rotated or converted.
MAX_DECODED_BYTES = 2 * 64_000_000 * 4
MAX_AT_ONCE = 2
MAX_WAITING = 16  # each one occupies a thread of the web process
PATIENCE = 30.0  # seconds to wait
BYTES_PER_PIXEL = 4
COPIES = 2  # while a picture is rotated or converted
#: Formats whose decoders hold a second full copy of the picture.
BUFFERED = ("WEBP", "AVIF", "HEIF", "TIFF")

#: Modes with more than 8 bits per channel; scaling them takes another copy.
WIDE_MODES = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")

#: Decompressed size limits of one PNG text chunk, and of all in a file. Pillow's default for all is 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 1_000_000
PngImagePlugin.MAX_TEXT_MEMORY = 4_000_000
MAX_EXIF_BYTES = 1_000_000
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # from malloc.h


class Budget:
    """Memory budget for decoded pictures, in bytes, shared by the threads of a process in FIFO order.

    A request larger than the whole budget runs alone. A thread that already holds a share takes no second one, because
    waiting for it could deadlock.
    """

    def __init__(
        self,
        most_bytes: int = MAX_DECODED_BYTES,
        most_at_once: int = MAX_AT_ONCE,
        most_waiting: int = MAX_WAITING,
        patience: float = PATIENCE,
    ) -> None:
        self._most_bytes = most_bytes
        self._most_at_once = most_at_once
        self._most_waiting = most_waiting
        self._patience = patience
        self._changed = threading.Condition()
        self._holders: dict[int, int] = {}  # thread -> bytes
        self._line: deque[object] = deque()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes. Raises Overloaded if too many threads wait, or after the budget's patience."""
        thread = threading.get_ident()
        if thread in self._holders:
            yield
            return
        self._take(thread, size)
        try:
            yield
        finally:
            with self._changed:
                del self._holders[thread]
                self._changed.notify_all()

    def _take(self, thread: int, size: int) -> None:
        ticket = object()
        with self._changed:
            if len(self._line) >= self._most_waiting:
                raise Overloaded
            self._line.append(ticket)
            try:
                if not self._changed.wait_for(lambda: self._line[0] is ticket and self._fits(size), self._patience):
                    raise Overloaded
                self._holders[thread] = size
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        used = sum(self._holders.values())
        return not used or (len(self._holders) < self._most_at_once and used + size <= self._most_bytes)


budget = Budget()


@contextmanager
def share(picture: PIL.Image) -> Iterator[None]:
    """Hold the memory that an opened picture needs for decoding and conversion. Raises Overloaded.

    The picture is closed at the end, so that its memory is free before the next one starts.
    """
    pixels = picture.width * picture.height
    with budget.reserve(
        pixels * BYTES_PER_PIXEL * COPIES * (2 if picture.format in BUFFERED or picture.mode in WIDE_MODES else 1)
    ):
        try:
            yield
        finally:
            picture.close()


def return_freed_memory() -> None:
    """Make glibc return large blocks to the system when they are freed; call once at process start.

    By default glibc raises its threshold after the first freed block of Pillow's size, and from then on every thread
    that decoded a picture keeps its memory (``M_MMAP_THRESHOLD`` in mallopt(3)). Every thread would also keep what its
    requests took once, in an arena of its own (``M_ARENA_MAX``); Python's lock leaves little to gain by these. A no-op
    on other platforms.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 1_000_000)
        library.mallopt(M_ARENA_MAX, 1)


def trim_memory() -> None:
    """Return free pages of glibc's heap to the system, which takes milliseconds. A no-op on other platforms."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def supported_formats() -> tuple[str, ...]:
    """Accepted picture formats. Pillow supports dozens more, with less tested decoders.

    Includes AVIF if Pillow was built with it, and HEIF (the HEIC of phones) if pillow-heif is installed.
    """
    heif = find_spec("pillow_heif") is not None  # there are platforms without a wheel
    if heif:
        PIL.register_open("HEIF", open_heif, begins_like_heif)
    return (
        *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
        *(["AVIF"] if features.check("avif") else []),
        *(["HEIF"] if heif else []),
    )


def begins_like_heif(start: bytes) -> bool:
    """Whether a file that begins like this may be HEIF: an ISO media file, but no AVIF, which Pillow reads itself."""
    return start[4:8] == b"ftyp" and start[8:12] not in (b"avif", b"avis")


def open_heif(file: IO[bytes], name: str | bytes) -> Any:
    """Pillow's opener of HEIF until the first such file, which imports the library (4 MB) and its own opener."""
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    factory, accepts = PIL.OPEN["HEIF"]
    start = file.read(16)
    file.seek(0)
    if accepts and not accepts(start):
        raise SyntaxError("not a HEIF file")  # by which Pillow goes on to the next format
    return factory(file, name)


INPUT_FORMATS = supported_formats()


class BoundedFile:
    """A file from which at most MAX_EXIF_BYTES can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_EXIF_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise SyntaxError(f"its EXIF data have more than {MAX_EXIF_BYTES:,} bytes")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def load_bounded(directory: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
    _load(directory, BoundedFile(file))  # type: ignore[arg-type]


# Entries of an EXIF directory may all point to the same bytes, and Pillow copies them for each: a JPEG of 500 kB can
# take gigabytes when opened. Pillow has no limit for this, so its reader gets a bounded file.
_load = TiffImagePlugin.ImageFileDirectory_v2.load
TiffImagePlugin.ImageFileDirectory_v2.load = load_bounded  # type: ignore[method-assign,assignment]
