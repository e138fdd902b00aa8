"""Why a worker process died: its exit status or signal, the system's out-of-memory killer, its last log lines."""

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

LAST_LINES, MOST_TAIL = 15, 64 * 1024  # of a log, and bytes that are read for them
MOST_CHARS = 500  # of a line
MOST_MESSAGES = 50_000  # of the kernel's
KERNEL = Path("/dev/kmsg")
CGROUP, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
OUT_OF_MEMORY = message("system_memory")


@dataclass(frozen=True, slots=True)
class ExitCause:
    """How a process ended. ``code`` is its exit status, negative for a signal; ``out_of_memory``: who says that the
    system ended it for its memory, empty if nobody does."""

    pid: int
    code: int
    out_of_memory: str = ""

    @property
    def words(self) -> str:
        """``process 7 ended by signal 9 (SIGKILL); …``"""
        told = f"process {self.pid} ended with exit status {self.code}"
        if self.code < 0:
            names = {each.value: each.name for each in signal.Signals}
            told = f"process {self.pid} ended by signal {-self.code} ({names.get(-self.code, 'unknown')})"
        killer = f"; the system's out-of-memory killer ended it ({self.out_of_memory})"
        return told + (killer if self.out_of_memory else "")


def death_of(pid: int, code: int, kills_before: int | None) -> ExitCause:
    """``kills_before`` is ``kills()`` from when the process began."""
    if code not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return ExitCause(pid, code)
    if f"Killed process {pid} " in kernel_messages():
        return ExitCause(pid, code, "the kernel's log")
    now = kills()
    if now is not None and kills_before is not None and now > kills_before:
        return ExitCause(pid, code, "memory.events of its control group")
    return ExitCause(pid, code)


def failure_of(failure: Failure, death: ExitCause, settings: Settings, slot: str) -> Failure:
    """The failure with its cause: the first line of its detail says how the process ended."""
    lines = last_lines(settings.logs / f"worker-{slot}.log")
    detail = [death.words, *(["", "The last lines of its log:", *lines] if lines else [])]
    message = OUT_OF_MEMORY if death.out_of_memory else failure.message
    return replace(failure, message=message, detail="\n".join(detail))


def kills() -> int | None:
    """Processes of this control group that the out-of-memory killer ended so far; None where that is not told."""
    with contextlib.suppress(OSError, ValueError):
        for path in events_files(OWN_GROUP.read_text(encoding="utf-8").splitlines()):
            if path.is_file():
                return counted(path.read_text(encoding="utf-8").splitlines())
    return None


def events_files(groups: Iterable[str]) -> Iterator[Path]:
    """Where the group's count may be; within a container its own group is the root. Version 2 comes first."""
    for line in sorted(groups):
        number, names, path = line.split(":", 2)
        for own in (path.lstrip("/"), ""):
            if number == "0":
                yield CGROUP / own / "memory.events"
            elif "memory" in names.split(","):
                yield CGROUP / "memory" / own / "memory.oom_control"


def counted(lines: Iterable[str]) -> int | None:
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def kernel_messages() -> str:
    """What the kernel has logged, as far as this process may read it."""
    messages: list[bytes] = []
    with contextlib.suppress(OSError):  # it may not read them, or there are no more
        descriptor = os.open(KERNEL, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            while len(messages) < MOST_MESSAGES and (message := os.read(descriptor, 8192)):
                messages.append(message)
        finally:
            os.close(descriptor)
    return b"\n".join(messages).decode("utf-8", "replace")


def last_lines(path: Path) -> list[str]:
    """The end of a log, as short lines of text; empty if it cannot be read."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MOST_TAIL))
            tail = file.read(MOST_TAIL).decode("utf-8", "replace").splitlines()
        lines = [shown(line) for line in tail[-LAST_LINES:] if line.strip()]
    return lines


def shown(line: str) -> str:
    """A line of our JSON as ``time level message``; any other as it is."""
    try:
        found = json.loads(line)
        words = " ".join(str(found[name]) for name in ("at", "level", "event") if name in found)
        error = str(found.get("traceback", "")).strip().splitlines()
        line = words + (f" ({error[-1]})" if error else "")
    except (ValueError, TypeError, AttributeError, KeyError):
        pass
    return line[:MOST_CHARS]
