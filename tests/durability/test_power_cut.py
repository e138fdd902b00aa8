"""What must be on the disk, and in which order, before a job is called done: seen from the calls that make it so."""

import os
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.queue.jobs import JobStore
from diffusion_local.worker.stopping import Stop
from tests.durability.conftest import submit
from tests.workers import open_runner


def test_bytes_then_name_then_folders_then_row(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture in a folder of a new day: each folder's own entry must be safe, too."""
    calls: list[str] = []
    gallery = services.settings.gallery_folder

    def told(owner: Any, name: str, words: Any) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any) -> Any:
            calls.append(words(*args))
            return inner(*args)

        monkeypatch.setattr(owner, name, wrapped)

    def synced(descriptor: int) -> str:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return f"sync {'bytes' if path.is_file() else path.relative_to(gallery.parent).as_posix()}"

    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are known on Linux only")
    [job_id] = submit(services)
    told(os, "fsync", synced)
    told(Path, "replace", lambda part, target: f"name {target.suffix}")
    told(JobStore, "finish", lambda *_: "row")
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()

    day = services.images.get(job_id).key.rsplit("/", 1)[0]
    year, month, _ = day.split("/")
    assert calls[: calls.index("sync bytes")].count("sync gallery") == 1  # the year's entry
    assert {f"sync gallery/{year}", f"sync gallery/{year}/{month}"} < set(calls[: calls.index("sync bytes")])
    assert calls[calls.index("sync bytes") :] == ["sync bytes", "name .png", f"sync gallery/{day}", "row"]
