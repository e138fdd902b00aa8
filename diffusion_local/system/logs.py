"""Logging: JSON lines to a rotating file per process, and short lines to the terminal."""

import contextlib
import gzip
import json
import logging
import re
import shutil
import sys
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from diffusion_local.domain import utc_now
from diffusion_local.settings import Settings

MAX_LOG_BYTES = 5_000_000
MAX_REPEATS = 20  # repetitions of a line per WINDOW_SECONDS
WINDOW_SECONDS = 60.0
MAX_LINES_SEEN = 1000  # distinct lines remembered
SHAPE_LETTERS = 500  # characters compared per line
DIGITS = re.compile(r"0x[0-9a-f]+|\d+")
KEPT_FILES = 5  # rotated files per process, compressed
KEPT_DAYS, MAX_KEPT_BYTES = 30, 20_000_000  # limits of all rotated files together
DISK_SECONDS = 10.0  # interval between checks of free disk space
NOISY = (
    "huey",
    "httpx",
    "httpcore",
    "filelock",
    "PIL",
    "uvicorn.access",
    "uvicorn.error",
    "asyncio",
    "urllib3",
    "matplotlib",
)


#: Id of the HTTP request that is being served.
_request: ContextVar[str] = ContextVar("request", default="")


@contextlib.contextmanager
def serving(request: str) -> Iterator[None]:
    """Context in which log lines include the request's id."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def start(settings: Settings, process: str, terminal: bool = True) -> None:
    """Log to ``logs/<process>.log`` and optionally to standard error."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    to_file = LogFile(
        settings.logs / f"{process}.log", maxBytes=MAX_LOG_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True
    )
    to_file.namer, to_file.rotator = compressed_name, compress
    to_file.reserve = settings.disk_reserve_mb * 10**6
    to_file.setFormatter(JsonLines(process))
    handlers: list[logging.Handler] = [to_file]
    if terminal:
        to_terminal = TerminalHandler(sys.stderr)
        to_terminal.setFormatter(logging.Formatter(f"%(asctime)s {process}: %(message)s", "%H:%M:%S"))
        handlers.append(to_terminal)
    repeats = RepeatFilter()
    for handler in handlers:
        handler.addFilter(repeats)
    logging.basicConfig(level=settings.log_level.upper(), handlers=handlers, force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def compressed_name(name: str) -> str:
    return f"{name}.gz"


def compress(source: str, target: str) -> None:
    """Rotate a full log, compressing it if the disk has room."""
    try:
        with Path(source).open("rb") as full, gzip.open(target, "wb", compresslevel=1) as compressed:
            shutil.copyfileobj(full, compressed)
        Path(source).unlink()
    except OSError:
        Path(source).replace(target)


def read_text(path: Path) -> str:
    """Text of a log file; empty if it was rotated away or is damaged."""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8", "replace")
    return ""


def trim(settings: Settings) -> int:
    """Delete rotated logs older than KEPT_DAYS, and the oldest beyond MAX_KEPT_BYTES; returns the bytes deleted.

    Never touches the file that a process writes to. Files of processes that no longer run count as rotated.
    """
    files = []
    for path in sorted(settings.logs.glob("*.log*"), reverse=True):  # a process's oldest file first
        with contextlib.suppress(OSError):
            info = path.stat()
            files.append((info.st_mtime, info.st_size, path))
    kept_bytes, deleted = 0, 0
    oldest = time.time() - KEPT_DAYS * 86400
    for at, size, path in sorted(files, reverse=True):
        if path.suffix == ".log" and at >= oldest:
            continue
        if at >= oldest and kept_bytes + size <= MAX_KEPT_BYTES:
            kept_bytes += size
        else:
            with contextlib.suppress(OSError):
                path.unlink()
                deleted += size
    return deleted


def read(settings: Settings, job: str = "") -> list[dict[str, Any]]:
    """Log lines of all processes by time, optionally of one job; lines that are not JSON are skipped."""
    entries = []
    for path in sorted(settings.logs.glob("*.log*"), reverse=True):  # a process's oldest file first
        for text in read_text(path).splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "at" in line and (not job or line.get("job") == job):
                entries.append(line)
    return sorted(entries, key=lambda line: line["at"])


class RepeatFilter(logging.Filter):
    """Passes a line ``most`` times in ``seconds``, then counts repetitions and logs their number when the window ends.

    Lines are equal if their texts are; warnings and errors also if only numbers differ. Lines about different jobs are
    never equal.
    """

    def __init__(
        self, most: int = MAX_REPEATS, seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[Any, ...], tuple[float, int, str]] = OrderedDict()  # oldest first

    def filter(self, record: logging.LogRecord) -> bool:
        """Decided once per record, so that all handlers write the same."""
        decided = getattr(record, "passes", None)
        if decided is None:
            decided, over = self._decide(record)
            record.passes = decided
            for name, level, text, left_out in over:
                logging.getLogger(name).log(level, "%d more in %g s like: %s", left_out, self._seconds, text)
        return bool(decided)

    def _decide(self, record: logging.LogRecord) -> tuple[bool, list[tuple[str, int, str, int]]]:
        """(whether the record passes, suppressed lines of windows that have ended)."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit the format: the handler reports them, the caller sees no error
            text = str(record.msg)
        shape = DIGITS.sub("#", text[:SHAPE_LETTERS]) if record.levelno >= logging.WARNING else text
        key = (record.name, record.levelno, getattr(record, "job", None), shape)
        with self._lock:
            now, over = self._clock(), []
            while self._seen:
                (name, level, *_), (since, count, first) = next(iter(self._seen.items()))
                if now - since < self._seconds and len(self._seen) <= MAX_LINES_SEEN:
                    break
                self._seen.popitem(last=False)
                if count > self._most:
                    over.append((name, level, first, count - self._most))
            since, count, first = self._seen.get(key, (now, 0, text[:SHAPE_LETTERS]))
            self._seen[key] = (since, count + 1, first)
            return count < self._most, over


class TerminalHandler(logging.StreamHandler[Any]):
    """Drops lines if the stream is closed or its reader is gone, as at the end of a process."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(self.stream, "closed", False):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        gone = isinstance(sys.exc_info()[1], OSError) or getattr(self.stream, "closed", False)
        if not gone:
            super().handleError(record)


class LogFile(RotatingFileHandler):
    """A rotating file that records only warnings and errors while less than ``reserve`` bytes are free. Write errors
    must neither fail the process nor flood the terminal with tracebacks.
    """

    reserve = 0
    _low = False
    _looked_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or not self._is_low():
            super().emit(record)

    def _is_low(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at > DISK_SECONDS:
            self._looked_at = now
            try:
                self._low = shutil.disk_usage(Path(self.baseFilename).parent).free < self.reserve
            except OSError:
                self._low = False
        return self._low

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class JsonLines(logging.Formatter):
    """Formats ``{"at", "level", "process", "event"}``, plus ``job`` if the call passes ``extra={"job": id}``, and
    ``request`` while one is being served.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": utc_now(),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
        }
        if job := getattr(record, "job", None):
            line["job"] = job
        if request := _request.get():
            line["request"] = request
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
