"""Logs: one JSON object a line in a rotating file per process, and short lines for the terminal."""

import json
import logging
import sys
from logging.handlers import RotatingFileHandler
from typing import Any

from diffusion_local.domain import utc_now
from diffusion_local.settings import Settings

MAX_BYTES = 5_000_000
KEPT_FILES = 5
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


def start(settings: Settings, process: str, terminal: bool = True) -> None:
    """Send this process's log to ``logs/<process>.log`` and, if wanted, to standard error."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    to_file = RotatingFileHandler(
        settings.logs / f"{process}.log", maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True
    )
    to_file.setFormatter(JsonLines(process))
    handlers: list[logging.Handler] = [to_file]
    if terminal:
        to_terminal = logging.StreamHandler(sys.stderr)
        to_terminal.setFormatter(logging.Formatter(f"%(asctime)s {process}: %(message)s", "%H:%M:%S"))
        handlers.append(to_terminal)
    logging.basicConfig(level=settings.log_level.upper(), handlers=handlers, force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def read(settings: Settings, job: str = "") -> list[dict[str, Any]]:
    """Every line of every process's log by time, of one job if one is named; lines that are no JSON are left out."""
    found = []
    for path in settings.logs.glob("*.log*"):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "at" in line and (not job or line.get("job") == job):
                found.append(line)
    return sorted(found, key=lambda line: line["at"])


class JsonLines(logging.Formatter):
    """``{"at", "level", "process", "event"}``, and ``job`` where a call gives ``extra={"job": id}``."""

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
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
