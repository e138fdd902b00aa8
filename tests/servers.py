"""Servers that tests start for themselves, in folders of their own."""

import http.client
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import eventually


def answers(url: str, timeout: float = 30.0) -> bool:
    """Whether a web process answers its health probe. It is asked often, so no client with certificates is made."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class RedisServer:
    """A Redis server on a socket in ``folder``, that keeps nothing when it stops."""

    def __init__(self, folder: Path, program: str) -> None:
        self._program = program
        self._folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        settings = ("--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self._folder)
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *settings], stdout=log, stderr=log)
        eventually(self._answers)

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
        self.socket.unlink(missing_ok=True)

    def calls(self, command: str) -> int:
        """How often clients sent a command since the start."""
        from redis import Redis

        with Redis(unix_socket_path=str(self.socket)) as client:
            return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def _answers(self) -> bool:
        from redis import Redis, RedisError

        assert self.process.poll() is None, (self._folder / "redis.log").read_text()
        try:
            with Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A started server. Where Redis is not installed the test is skipped, in CI it fails."""
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed, and CI skips no test of it")
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    folder = Path(tempfile.mkdtemp(prefix="redis-"))  # a socket's path may have 107 bytes, too few for tmp_path
    server = RedisServer(folder, program)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
