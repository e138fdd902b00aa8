"""Python children that begin with their imports done: a server imports the program once, and forks for each child.

The server is this module run as a program. It is asked over a socket; with each question come the standard streams of
the child and a pipe, through which its exit status comes back.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parent.parent
#: Modules that the server of each name imports before it forks.
IMPORTS = {
    "worker": (
        "diffusion_local.worker.__main__",
        "diffusion_local.worker.runner",
        "diffusion_local.engine.fake",
        "diffusion_local.cli",
    ),
    "web": ("diffusion_local.web.__main__", "diffusion_local.web.app"),
}
MOST_BYTES = 100_000  # of a question


class Forked:
    """A child of the server, with the part of Popen's interface that tests need."""

    def __init__(self, pid: int, status: socket.socket, stdin: IO[bytes], log: Path) -> None:
        self.pid = pid
        self.log_path = log
        self.stdin = stdin
        self.stdout = self.stderr = None
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0)
            result = self._status.recv(16)
            assert result, "the server of forked children has died"
            self.returncode = int(result)
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(imports: str, code: str, *arguments: str, env: dict[str, str], log: Path) -> Forked:
    """Start a child that runs ``code`` with these arguments; its output and errors go to the file ``log``.

    ``imports``: a key of IMPORTS. Its standard input is a pipe.
    """
    asked = server(imports)
    read, write = os.pipe()
    ours, theirs = socket.socketpair()
    question = json.dumps({"code": code, "arguments": arguments, "env": env, "cwd": str(Path.cwd())}).encode()
    assert len(question) < MOST_BYTES
    with theirs, log.open("ab") as output:
        socket.send_fds(asked, [question], [read, output.fileno(), theirs.fileno()])
        os.close(read)
    pid = int(ours.recv(16))
    return Forked(pid, ours, os.fdopen(write, "wb", buffering=0), log)


def run(
    imports: str, code: str, *arguments: str, env: dict[str, str], folder: Path, given: str = "", timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run does: wait for a child to end, with its output and its errors as two texts.

    ``folder`` keeps them until they are read; ``given`` is its standard input.
    """
    output, errors = folder / "output.txt", folder / "errors.txt"
    for each in (output, errors):
        each.write_bytes(b"")
    apart = f"import os; os.dup2(os.open({str(errors)!r}, os.O_WRONLY | os.O_APPEND), 2)\n"
    child = fork(imports, apart + code, *arguments, env=env, log=output)
    try:
        with child.stdin:
            child.stdin.write(given.encode())
        status = child.wait(timeout)
    finally:
        child.kill()
    return subprocess.CompletedProcess([code, *arguments], status, output.read_text(), errors.read_text())


def main_of(package: str) -> str:
    """Code that runs a package as ``python -m`` does."""
    return f"import sys; from {package}.__main__ import main; sys.exit(main())"


@cache
def server(imports: str) -> socket.socket:
    """A connection to the server of this process that has these modules."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(theirs.fileno()), *IMPORTS[imports]],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    atexit.register(end)
    return ours


# -- the server --------------------------------------------------------------------------------------------------------


def serve(asked: socket.socket) -> dict[str, Any] | None:
    """Fork for each question, until nobody asks any more. In a child: its question, with its streams in place."""
    ends, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([asked, ends], [], [])
        if ends in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(ends, 4096)
            tell_ends(children)
        if asked not in ready:
            continue
        content, streams, _, _ = socket.recv_fds(asked, MOST_BYTES, 3)
        if not content:
            return None
        stdin, log, status = streams
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for place, each in enumerate((stdin, log, log)):
                os.dup2(each, place)
            for each in (stdin, log, status, ends, wakes, asked.detach(), *(one.detach() for one in children.values())):
                with contextlib.suppress(OSError):
                    os.close(each)
            return json.loads(content)
        os.close(stdin)
        os.close(log)
        children[pid] = socket.socket(fileno=status)
        children[pid].send(str(pid).encode())


def tell_ends(children: dict[int, socket.socket]) -> None:
    """Tell the status of all children that have ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as asker, contextlib.suppress(OSError):
            asker.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: pytest ends us
    asked = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    assert threading.active_count() == 1, f"a fork would lose {threading.enumerate()}"
    question = serve(asked)
    if question is not None:
        os.environ.clear()
        os.environ.update(question["env"])
        time.tzset()
        os.chdir(question["cwd"])
        sys.argv = ["-c", *question["arguments"]]
        exec(compile(question["code"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the tests' own code


if __name__ == "__main__":
    main()
