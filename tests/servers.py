"""Servers that tests start for themselves, in folders of their own."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
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


@contextmanager
def sqs_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """(URL of a server that speaks SQS, how it is taken away, how it is brought back with empty queues)."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    running: list[ThreadedMotoServer] = []

    def start() -> None:
        running.append(ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False))
        running[-1].start()

    def stop() -> None:
        running.pop().stop()

    start()
    try:
        yield f"sqs://test:test@127.0.0.1:{port}/?is_secure=false&region=us-east-1", stop, start
    finally:
        while running:
            stop()


class RabbitServer:
    """RabbitMQ on a port of its own, in a folder of its own; stopping it is a crash."""

    def __init__(self, folder: Path, program: str) -> None:
        self._folder, self._program = folder, program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._names_port = self._port + 2 if self._port < 65_000 else self._port - 2
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        self._process: subprocess.Popen[bytes] | None = None
        self._names: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Erlang's name server. RabbitMQ would start it as a daemon, which nothing stops.
        names = {"ERL_EPMD_PORT": str(self._names_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        self._names = subprocess.Popen(["epmd"], env=os.environ | names, stdout=subprocess.DEVNULL)
        eventually(lambda: self._listens(self._names_port), 20)
        (self._folder / "rabbitmq.conf").write_text(f"listeners.tcp.default = 127.0.0.1:{self._port}\n")
        (self._folder / "plugins").write_text("[].\n")
        environ = os.environ | {
            "HOME": str(self._folder),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_NODENAME": f"test{self._port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._port + 1 if self._port < 65_000 else self._port - 1),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
        }
        environ |= names
        with (self._folder / "rabbit.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program], env=environ, stdout=log, stderr=log, start_new_session=True, cwd=self._folder
            )
        eventually(self._answers, 60)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None
        if self._names is not None:
            self._names.kill()
            self._names.wait(10)
            self._names = None
            assert not self._listens(self._names_port), "a name server of Erlang was left behind"

    @staticmethod
    def _listens(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(connection.recv(1))
        return False


@contextmanager
def rabbitmq_server() -> Iterator[RabbitServer]:
    program = next((each for each in ("/usr/lib/rabbitmq/bin/rabbitmq-server",) if Path(each).exists()), None)
    if program is None:
        words = "RabbitMQ is not installed here (Debian: apt-get install rabbitmq-server)"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    with tempfile.TemporaryDirectory() as folder:
        server = RabbitServer(Path(folder), program)
        try:
            server.start()
            yield server
        finally:
            server.stop()
