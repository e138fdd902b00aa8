"""Finds out why a worker process died: exit status or signal, out-of-memory killer, last log lines."""

import contextlib
import json
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion_local.domain import Failure
from diffusion_local.messages import message
from diffusion_local.settings import Settings

LAST_LINES, MOST_TAIL = 15, 64 * 1024  # log lines shown, and bytes read for them
MOST_CHARS = 500  # per line
MOST_MESSAGES = 50_000  # kernel messages read
KERNEL = Path("/dev/kmsg")
CGROUP, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
OUT_OF_MEMORY = message("system_memory")


@dataclass(frozen=True, slots=True)
class ExitCause:
    """How a process ended. ``code``: exit status, negative for a signal; ``out_of_memory``: the source that reports an
    out-of-memory kill, or "".
    """

    pid: int
    code: int
    out_of_memory: str = ""

    @property
    def text(self) -> str:
        """The cause as a sentence: ``process 7 ended by signal 9 (SIGKILL); …``"""
        text = f"process {self.pid} ended with exit status {self.code}"
        if self.code < 0:
            names = {each.value: each.name for each in signal.Signals}
            text = f"process {self.pid} ended by signal {-self.code} ({names.get(-self.code, 'unknown')})"
        killer = f"; the system's out-of-memory killer ended it ({self.out_of_memory})"
        return text + (killer if self.out_of_memory else "")


def exit_cause(pid: int, code: int, kills_before: int | None) -> ExitCause:
    """The cause of a process's end. ``kills_before``: ``kills()`` at its start."""
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return ExitCause(pid, code)
    if f"Killed process {pid} " in kernel_messages():
        return ExitCause(pid, code, "the kernel's log")
    now = count_oom_kills()
    if now is not None and kills_before is not None and now > kills_before:
        return ExitCause(pid, code, "memory.events of its control group")
    return ExitCause(pid, code)


def failure_of(failure: Failure, death: ExitCause, settings: Settings, slot: str) -> Failure:
    """The failure with its cause: the first line of its detail states how the process ended."""
    lines = last_lines(settings.logs / f"worker-{slot}.log")
    detail = [death.text, *(["", "The last lines of its log:", *lines] if lines else [])]
    message = OUT_OF_MEMORY if death.out_of_memory else failure.message
    return replace(failure, message=message, detail="\n".join(detail))


def count_oom_kills() -> int | None:
    """Number of out-of-memory kills in this control group so far; None if unknown."""
    with contextlib.suppress(OSError, ValueError):
        for path in events_files(OWN_GROUP.read_text(encoding="utf-8").splitlines()):
            if path.is_file():
                return parse_count(path.read_text(encoding="utf-8").splitlines())
    return None


def events_files(groups: Iterable[str]) -> Iterator[Path]:
    """Files that may contain the group's counter, those of cgroup version 2 first.

    Inside a container the process's own group is the root.
    """
    for line in sorted(groups):
        number, names, path = line.split(":", 2)
        for own in (path.lstrip("/"), ""):
            if number == "0":
                yield CGROUP / own / "memory.events"
            elif "memory" in names.split(","):
                yield CGROUP / "memory" / own / "memory.oom_control"


def parse_count(lines: Iterable[str]) -> int | None:
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def kernel_messages() -> str:
    """The kernel log, as far as this process may read it."""
    messages: list[bytes] = []
    with contextlib.suppress(OSError):  # not readable, or no more messages
        descriptor = os.open(KERNEL, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            while len(messages) < MOST_MESSAGES and (message := os.read(descriptor, 8192)):
                messages.append(message)
        finally:
            os.close(descriptor)
    return b"\n".join(messages).decode("utf-8", "replace")


def last_lines(path: Path) -> list[str]:
    """The last lines of a log, shortened; empty if it cannot be read."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_TAIL))
            tail = file.read(MOST_TAIL).decode("utf-8", "replace").splitlines()
        lines = [format_line(line) for line in tail[-LAST_LINES:] if line.strip()]
    return lines


def format_line(line: str) -> str:
    """A JSON log line as ``time level message``; other lines unchanged."""
    try:
        found = json.loads(line)
        words = " ".join(str(found[name]) for name in ("at", "level", "event") if name in found)
        error = str(found.get("traceback", "")).strip().splitlines()
        line = words + (f" ({error[-1]})" if error else "")
    except (ValueError, TypeError, AttributeError, KeyError):
        pass
    return line[:MOST_CHARS]
