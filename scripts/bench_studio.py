"""The studios that benchmarks measure: in this process, as a web process, or as a whole."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from diffusion_local.compose import Services, open_services
from diffusion_local.settings import Settings


def in_home(measure: Callable[[Services], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        services = open_services(Settings.load({}, home=Path(home), engine="fake", max_queued=10**7, port=0))
        try:
            return measure(services)
        finally:
            services.database.close()


@contextmanager
def web_process(services: Services) -> Iterator[tuple[int, str]]:
    """Start a web process and wait until it answers: (process id, URL). It is stopped at the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = replace(services.settings, port=port).child_environ()
    with tempfile.TemporaryFile() as log:
        web = subprocess.Popen([sys.executable, "-m", "diffusion_local.web"], env=environ, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=60) as client:
                awaited(client)
            yield web.pid, url
        finally:
            web.terminate()
            web.wait(20)


def awaited(client: httpx.Client) -> None:
    """Wait until the server answers, at most two minutes; raises the last httpx.HTTPError."""
    deadline = time.monotonic() + 120
    while True:
        try:
            client.get("/healthz").raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def start(settings: Settings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from diffusion_local.cli import main; main()", "serve"]
    return subprocess.Popen(command, env=settings.child_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def serving_url(settings: Settings) -> str:
    """Wait for the server and its worker; returns the server's address."""
    deadline = time.monotonic() + 120
    path = settings.home / "locks" / "serve.json"
    while time.monotonic() < deadline:
        try:
            url = str(json.loads(path.read_text(encoding="utf-8"))["url"])
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return url
        except (OSError, ValueError, KeyError, httpx.HTTPError):
            pass
        time.sleep(0.2)
    raise SystemExit("The server did not start.")


def eventually(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the studio did not start")
        time.sleep(0.05)
