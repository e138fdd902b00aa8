"""Limits on decoding pictures that others send: how much memory they may take, and how many are decoded at once.

A PNG of 261 kB can hold 64 megapixels, which are 256 MB once decoded. Every place that decodes a picture therefore
takes a share of one budget first (`share`, `budget.taken`), by the size that the picture's header names; whoever finds
the budget used up waits in line.
"""

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image as PIL
from PIL import PngImagePlugin, TiffImagePlugin, features

from diffusion_local.errors import Overloaded

#: Two RGBA pictures of 64 megapixels: one that is decoded, and a second copy while it is turned or converted.
MOST_BYTES = 2 * 64_000_000 * 4
MOST_AT_ONCE = 2
MOST_WAITING = 16  # each of them holds a thread of the web process
PATIENCE = 30.0  # seconds in line
BYTES_PER_PIXEL = 4
COPIES = 2  # while a picture is turned or converted
#: Formats whose decoders hold the whole picture themselves, beside Pillow's copy.
BUFFERED = ("WEBP", "AVIF", "HEIF")

#: Modes with more than 8 bits a channel, which take a further copy to be scaled.
WIDE = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")

#: Of PNG's compressed text chunks: of one, and of all together. Pillow's own limit for all is 64 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 1_000_000
PngImagePlugin.MAX_TEXT_MEMORY = 4_000_000
MAX_EXIF_BYTES = 1_000_000
M_MMAP_THRESHOLD = -3  # of malloc.h


class Budget:
    """Memory for decoded pictures, in bytes, shared by the threads of a process, first come, first served.

    A request that is larger than the whole budget is served alone. A thread that holds a share already gets no second
    one, since it would wait for itself.
    """

    def __init__(
        self,
        most_bytes: int = MOST_BYTES,
        most_at_once: int = MOST_AT_ONCE,
        most_waiting: int = MOST_WAITING,
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
    def taken(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes of the budget. Raises Overloaded if too many wait, or after the budget's patience."""
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
    """Hold the memory that an opened picture takes while it is decoded and converted. Raises Overloaded.

    The picture is closed at the end, so that its memory is free before somebody else gets it.
    """
    pixels = picture.width * picture.height
    with budget.taken(
        pixels * BYTES_PER_PIXEL * COPIES * (2 if picture.format in BUFFERED or picture.mode in WIDE else 1)
    ):
        try:
            yield
        finally:
            picture.close()


def return_freed_memory() -> None:
    """Let glibc give large blocks back to the system as soon as they are free; called once at a process's start.

    By default it stops doing so for blocks as large as Pillow's after the first one, and then keeps a picture's memory
    for each thread that ever decoded one (``M_MMAP_THRESHOLD`` in mallopt(3)). Elsewhere nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1_000_000)


def formats() -> tuple[str, ...]:
    """Formats that pictures of others may have. Pillow knows dozens more, whose decoders are little tried.

    AVIF is among them where Pillow was built with it, HEIF (the HEIC of phones) where pillow-heif is installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # a platform that it has no wheel for
        heif = []
    else:
        register_heif_opener(thumbnails=False)
        heif = ["HEIF"]
    return ("PNG", "JPEG", "WEBP", "GIF", "BMP", *(["AVIF"] if features.check("avif") else []), *heif)


FORMATS = formats()


class Metered:
    """A file of which no more than MAX_EXIF_BYTES can be read."""

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


def load_metered(directory: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
    _load(directory, Metered(file))  # type: ignore[arg-type]


# Entries of an EXIF directory may all point to the same bytes, and Pillow keeps a copy for each: a JPEG of 500 kB can
# take gigabytes as it is opened. Pillow has no limit for this, so its reader gets a file that has one.
_load = TiffImagePlugin.ImageFileDirectory_v2.load
TiffImagePlugin.ImageFileDirectory_v2.load = load_metered  # type: ignore[method-assign,assignment]
