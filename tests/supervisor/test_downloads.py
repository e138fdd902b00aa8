"""The loading process may be killed at any moment: the next one goes on with what is there."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.hub.downloads import DownloadState
from diffusion_local.paths import assets
from diffusion_local.supervisor import leader
from tests.hub.conftest import FakeHub
from tests.hub.conftest import hub as hub
from tests.hub.conftest import settings as settings
from tests.support import eventually, start_python

LOAD = """
import signal, sys, threading, time
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.supervisor.leader import DownloadChore
from diffusion_local.settings import Settings
run_as(LOCAL)
services = open_services(Settings.load())
loading = DownloadChore(services, pause=0.01)
loading.start()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
while not stop.is_set():
    loading.poll()
    stop.wait(0.05)
loading.stop()
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(services: Services, hub: FakeHub, monkeypatch: Any) -> None:
    folder = assets() / "starter"
    parts = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    paths = [folder / "model_index.json", *(path for part in parts for path in (folder / part).iterdir())]
    hub.repos["a/tiny"] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    monkeypatch.setenv("DIFFUSION_LOCAL_HUB_ENDPOINT", hub.url)
    hub.hold = threading.Event()
    download = services.studio.library.download("a/tiny")
    first = start_python(LOAD)
    try:
        eventually(lambda: services.downloads.get(download.id).bytes_done > 50_000, 40)
        eventually(lambda: parts_of(services.settings.models), 20)
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=10)
        assert services.downloads.get(download.id).state is DownloadState.RUNNING
        hub.hold.set()
        hub.asked.clear()
        second = start_python(LOAD)
        try:
            eventually(lambda: services.downloads.get(download.id).state is DownloadState.DONE, 40)
            assert len(hub.sent_ranges()) == 1
            assert services.studio.library.model("tiny").ready
            eventually(lambda: services.studio.library.model("tiny").sha256, 80)
            os.kill(second.pid, signal.SIGTERM)
            assert second.wait(20) == 0
        finally:
            second.kill()
            second.communicate(timeout=10)
    finally:
        first.kill()


def test_a_ring_that_is_lost_is_rung_again(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that was away or deleted for a moment must not stop downloads until the next start."""
    monkeypatch.setattr(leader, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(leader, "DOWNLOADS_LOST_SECONDS", 0.0)
    rung: list[int] = []
    opened = leader.DownloadChore(services)
    monkeypatch.setattr(opened, "_ring", lambda: rung.append(1))  # nobody hears it
    monkeypatch.setattr(type(services.downloads), "any_waiting", lambda self: True)
    eventually(lambda: (opened.poll(), len(rung) >= 2)[1])


def parts_of(models: Path) -> list[Path]:
    return [path for path in models.rglob("*.part") if path.stat().st_size > 50_000]
