"""A web process of its own, whose memory can be measured and which may be attacked until it dies."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffusion_local.settings import PREFIX, Settings
from tests.servers import answers
from tests.support import eventually
from tests.web.conftest import free_port


@dataclass(frozen=True)
class WebProcess:
    child: "subprocess.Popen[bytes]"
    url: str


@pytest.fixture
def web(settings: Settings, tmp_path: Path) -> Iterator[WebProcess]:
    port = free_port()
    environ = settings.child_environ() | {PREFIX + "PORT": str(port)}
    command = [sys.executable, "-m", "diffusion_local.web", "--supervised"]
    log = tmp_path / "web.out"
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: child.poll() is not None or answers(url), 120, 0.2)
        assert child.poll() is None, log.read_text()
        yield WebProcess(child, url)
    finally:
        child.kill()
        child.wait()
        if child.stdin:
            child.stdin.close()
