"""A web process of its own, whose memory can be measured and which may be attacked until it dies."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings
from tests.forking import Forked, fork, main_of
from tests.servers import answers
from tests.support import eventually
from tests.web.conftest import free_port


@dataclass(frozen=True)
class WebProcess:
    child: Forked
    url: str


@pytest.fixture
def web(settings: Settings, tmp_path: Path) -> Iterator[WebProcess]:
    port = free_port()
    environ = settings.child_environ() | {ENVIRONMENT_PREFIX + "PORT": str(port)}
    log = tmp_path / "web.out"
    child = fork("web", main_of("diffusion_local.web"), "--supervised", env=environ, log=log)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: child.poll() is not None or answers(url), 120, 0.2)
        assert child.poll() is None, log.read_text()
        yield WebProcess(child, url)
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
