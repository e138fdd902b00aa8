"""Command hooks: programs from config.toml that run on events.

A hook runs without a shell. It gets the message as JSON on standard input and its facts as environment variables
``DIFFUSION_LOCAL_EVENT``, ``…_BATCH_ID``, ``…_NAME`` and so on; ``{name}`` placeholders in its arguments are replaced.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from diffusion_local import disk
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.notify.deliveries import HOOK
from diffusion_local.notify.webhook import MAX_READ, Outcome, printable
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings, inherited

#: Event -> setting with its command.
HOOK_SETTINGS = {
    "batch.done": "on_batch_done",
    "job.failed": "on_job_failed",
    "queue.idle": "on_queue_idle",
    "queue.paused": "on_queue_paused",
}
FACTS = ("event", "batch_id", "job_id", "name", "done", "failed", "cancelled", "count", "seconds", "reason", "report")
MOST_LETTERS = 1000  # characters per fact


def hook_receiver(settings: Settings, event: str) -> str | None:
    name = HOOK_SETTINGS.get(event)
    return HOOK + name if name and getattr(settings, name) else None


def run(settings: Settings, receiver: str, payload: str) -> Outcome:
    """Run a hook until it ends or times out. It is never retried, because it may have done part of its work."""
    name = receiver.removeprefix(HOOK)
    command = getattr(settings, name, ()) if name in HOOK_SETTINGS.values() else ()
    if not command:
        return Outcome(False, error=f"config.toml has no command {name} any more", final=True)
    message = json.loads(payload)
    facts_by_name = facts(message)
    try:
        words = fill_arguments(command, facts_by_name, name)
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=inherited() | {ENVIRONMENT_PREFIX + fact.upper(): value for fact, value in facts_by_name.items()},
            cwd=settings.home,
            start_new_session=True,
            umask=disk.inherited_umask(),
        )
    except InvalidParams as error:
        return Outcome(False, error=error.message, final=True)
    except (OSError, ValueError) as error:
        return Outcome(False, error=f"{command[0]} cannot be run: {error}", final=True)
    output = Output(process, payload.encode())
    try:
        status = process.wait(settings.hook_timeout)
    except subprocess.TimeoutExpired:
        kill_group(process)
        return Outcome(
            False, None, output.text(), f"stopped after {settings.hook_timeout} s (hook_timeout)", final=True
        )
    answer = output.text()
    return Outcome(status == 0, status, answer, "" if status == 0 else f"it ended with status {status}", final=True)


class Output:
    """Feeds a process and reads its output to the end, keeping only the beginning.

    Uses threads, because a command may read nothing, print a lot, or leave a child behind that keeps the pipe open.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", data: bytes) -> None:
        self._kept = bytearray()
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()
        threading.Thread(target=feed, args=(process.stdin, data), daemon=True).start()

    def _read(self, pipe: Any) -> None:
        with pipe:
            while piece := pipe.read1(4096):
                self._kept += piece[: max(0, MAX_READ - len(self._kept))]

    def text(self) -> str:
        self._reader.join(1.0)
        return printable(bytes(self._kept).decode("utf-8", "replace"))


def feed(pipe: Any, data: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # a command need not read its input
        pipe.write(data)


def facts(message: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a message as short texts, by name."""
    data = message.get("data", {}) | {"event": message["type"]}
    batch = data.get("batch") or {}
    known = batch.get("counts", {}) | batch | {name: value for name, value in data.items() if value is not None}
    return {name: str(known[name])[:MOST_LETTERS].replace("\0", "") for name in FACTS if known.get(name) is not None}


def fill_arguments(command: tuple[str, ...], values: Mapping[str, str], name: str) -> list[str]:
    """The command with ``{fact}`` placeholders replaced in its arguments. A substituted text is never parsed as an
    option.
    """
    if os.name == "nt" and command[0].lower().endswith((".bat", ".cmd")):
        raise InvalidParams(name, message("hook_windows"))

    def fill(word: str) -> str:
        found = re.sub(r"\{(\w+)\}", lambda mark: values.get(mark[1], "" if mark[1] in FACTS else mark[0]), word)
        return " " + found if found.startswith("-") and not word.startswith("-") else found

    return [command[0], *map(fill, command[1:])]


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a command and everything it started."""
    if os.name == "nt":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
