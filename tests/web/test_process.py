"""The web process: it stays small, and stops at once whatever is still connected."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from diffusion_local.compose import Services
from diffusion_local.settings import ENVIRONMENT_PREFIX, Settings
from tests.forking import fork, main_of
from tests.servers import answers
from tests.support import eventually, soon
from tests.web.api.comfyui.graphs import TXT2IMG
from tests.web.conftest import free_port

MOST_MEGABYTES = 180
#: Parts of the paths of packages that it has no use for.
UNUSED = ("libtorch", "/pandas/", "/numpy/", "/psycopg_binary", "/cryptography/", "/Crypto/", "pillow_heif")
MOST_SECONDS = 3.0  # a second in peace


@contextlib.contextmanager
def web_process(settings: Settings, folder: Path, files: int = 0, forked: bool = False) -> Iterator[tuple[Any, str]]:
    """A web process that answers, and its address; it may have ``files`` open files, if that is named.

    ``forked``: it is spared its imports, which tests of their memory must not be.
    """
    port = free_port()
    environ = settings.child_environ() | {ENVIRONMENT_PREFIX + "PORT": str(port)}
    command = [sys.executable, "-m", "diffusion_local.web", "--supervised"]
    log = folder / "web.out"
    if files:
        command = ["sh", "-c", f'ulimit -n {files} && exec "$0" "$@"', *command]
    if forked:
        child: Any = fork("web", main_of("diffusion_local.web"), "--supervised", env=environ, log=log)
    else:
        with log.open("wb") as output:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: child.poll() is not None or answers(url), 150, 0.1)
        assert child.poll() is None, log.read_text()
        yield child, url
    finally:
        child.kill()
        child.wait()
        if child.stdin:
            child.stdin.close()


@pytest.fixture
def process(settings: Settings, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    with web_process(settings, tmp_path) as found:
        yield found


@pytest.fixture
def forked(settings: Settings, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    with web_process(settings, tmp_path, forked=True) as found:
        yield found


@pytest.mark.parametrize("how", ["terminate", pytest.param("parent gone", marks=pytest.mark.slow)])
def test_is_small_calls_nobody_and_stops_at_once_with_streams_open(process: Any, how: str, tmp_path: Path) -> None:
    child, url = process
    assert httpx.get(url).status_code == 200
    is_small_and_calls_nobody(psutil.Process(child.pid))
    job_id = httpx.post(f"{url}/api/v1/jobs", json={"prompt": "x", "width": 128, "height": 128}).json()["job_ids"][0]
    event_id = httpx.post(f"{url}/gradio_api/call/wait", json={"data": [job_id, 60]}).json()["event_id"]
    for path in (f"gradio_api/call/wait/{event_id}", "api/v1/queue/stream", "api/v1/queue/stream"):
        threading.Thread(target=stream, args=(f"{url}/{path}",), daemon=True).start()
    eventually(lambda: len(psutil.Process(child.pid).net_connections()) > 3)
    started = time.monotonic()
    if how == "terminate":
        child.terminate()
    else:
        child.stdin.close()
    assert child.wait(30) == 0
    assert time.monotonic() - started < soon(MOST_SECONDS)
    assert "Traceback" not in (tmp_path / "web.out").read_text()


def stream(url: str) -> None:
    try:
        with httpx.stream("GET", url, timeout=30) as answer:
            for _ in answer.iter_raw():
                continue
    except httpx.TransportError:
        return


def is_small_and_calls_nobody(me: psutil.Process) -> None:
    assert me.memory_info().rss / 1e6 < MOST_MEGABYTES
    if hasattr(me, "memory_maps"):
        assert not [each.path for each in me.memory_maps() if any(name in each.path for name in UNUSED)]
    outside = [c.raddr for c in me.net_connections() if c.raddr and not c.raddr.ip.startswith(("127.", "::1"))]
    assert outside == []


def test_an_unreadable_home_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.db").write_text("this is no database, and long enough to look like a damaged one " * 20)
    environ = os.environ | {ENVIRONMENT_PREFIX + "HOME": str(tmp_path), ENVIRONMENT_PREFIX + "PORT": str(free_port())}
    child = fork("web", main_of("diffusion_local.web"), env=environ, log=tmp_path / "web.out")
    assert child.wait(60) == 2
    text = child.log_path.read_text()
    assert text.startswith("diffusion-local: ")
    assert "Traceback" not in text


def aside(work: Callable[[Any], Any], app: Any) -> None:
    """In a thread of its own: browser tests leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: asyncio.run(work(app))).result()


def test_the_first_visitor_does_not_wait_for_the_routes(services: Services) -> None:
    from diffusion_local.web.__main__ import draw_once
    from diffusion_local.web.app import create_app

    app = create_app(services.studio, services.settings, services=services)
    reports: list[Any] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            reports.append((scope["path"], message.get("status"), len(message.get("body", b""))))
            await send(message)

        await app.router(scope, receive, tell)

    aside(draw_once, SimpleNamespace(router=watched))
    assert ("/", 200, 0) in reports
    assert sum(size for _, _, size in reports) > 10_000  # the page, whole


def test_a_page_that_cannot_be_drawn_in_advance_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from diffusion_local.web.__main__ import draw_once

    aside(draw_once, object())
    assert "could not be drawn" in caplog.text


def test_a_websocket_is_served_and_does_not_hold_up_the_stop(forked: Any, tmp_path: Path) -> None:
    client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
    child, url = forked
    with client.connect(url.replace("http", "ws") + "/ws?clientId=c") as socket:
        assert '"queue_remaining":0' in socket.recv(30).replace(" ", "")
        assert httpx.post(f"{url}/prompt", json={"prompt": TXT2IMG, "client_id": "c"}).status_code == 200
        assert '"queue_remaining":1' in socket.recv(30).replace(" ", "")
        started = time.monotonic()
        child.terminate()
        assert child.wait(30) == 0
        assert time.monotonic() - started < soon(MOST_SECONDS)
    assert "Traceback" not in (tmp_path / "web.out").read_text()
