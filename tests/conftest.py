"""Every test has a home of its own below tmp_path; nothing here touches the person's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from diffusion_local.compose import House, open_house
from diffusion_local.settings import PREFIX, Settings
from diffusion_local.store.database import Database
from diffusion_local.store.jobs import JobStore
from diffusion_local.studio import Studio
from tests.support import eventually

os.environ["OMP_NUM_THREADS"] = "1"  # a thread storm on few cores makes torch a hundred times slower


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DIFFUSION_LOCAL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.load(engine="fake", port=0, fake_step_seconds=0.01, password_memory_kb=8)


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    opened = open_house(settings)
    yield opened
    opened.database.close()


@pytest.fixture
def studio(house: House) -> Studio:
    return house.studio


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "app.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


StartWorker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def worker_process(house: House, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts ``python -m diffusion_local.worker`` with the fake engine; what still lives at the end is killed.

    With ``ready`` (the default) it returns once the worker has said that it is idle or busy.
    """
    children: list[subprocess.Popen[bytes]] = []

    def start(slot: str = "cpu0", *, supervised: bool = False, ready: bool = True, **changes: Any) -> Any:
        environ = house.settings.child_environ() | {PREFIX + k.upper(): str(v) for k, v in changes.items()}
        log = (tmp_path / f"{slot}-{len(children)}.log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", "diffusion_local.worker", "--slot", slot, *(["--supervised"] if supervised else [])],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environ,
        )
        child.log_path = Path(log.name)  # type: ignore[attr-defined]
        log.close()
        children.append(child)
        if ready:
            eventually(lambda: is_ready(house, slot, child), 60)
        return child

    yield start
    for child in children:
        kill_tree(child)


def is_ready(house: House, slot: str, child: subprocess.Popen[bytes]) -> bool:
    assert child.poll() is None, child.log_path.read_text()  # type: ignore[attr-defined]
    return any(
        worker.slot == slot and worker.pid == child.pid and worker.status in ("idle", "busy", "loading")
        for worker in house.workers.all()
    )


def kill_tree(child: "subprocess.Popen[Any]") -> None:
    """Kill a child and all that it started."""
    try:
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    child.wait(10)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
