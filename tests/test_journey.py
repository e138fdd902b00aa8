"""The whole road as a person and a program walk it: serve, submit by the command line, the file, the recipe."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.settings import Settings
from tests import forking
from tests.conftest import kill_tree
from tests.support import REPOSITORY, eventually

Command = Callable[..., Any]
CLI = [sys.executable, "-c", "from diffusion_local.cli import main; main()"]


@pytest.fixture
def served(settings: Settings, tmp_path: Path) -> Iterator[str]:
    """The address of a studio with a worker, in a home of its own."""
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*CLI, "serve"], stdout=file, stderr=file, cwd=REPOSITORY, env=settings.child_environ()
        )

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"is at (http://\S+)", log.read_text())
        return found and found[1]

    try:
        yield eventually(address, 60)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            kill_tree(process)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a command as a process of its own that finds the home by the environment; returns the JSON it prints."""

    def run(*arguments: object, status: int = 0) -> Any:
        code, words = "from diffusion_local.cli import main; main()", [*map(str, arguments), "--json"]
        done = forking.run("worker", code, *words, env=dict(os.environ), folder=tmp_path)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    return run


@pytest.mark.slow
def test_from_a_prompt_to_a_picture_with_its_recipe(served: str, command: Command, home: Path) -> None:
    answer = command("submit", "a red apple", "--count", 2, "--seed", 7, "--size", "128x128", "--steps", 3, "--wait")
    assert [job["state"] for job in answer["jobs"]] == ["done", "done"]
    for job in answer["jobs"]:
        file = Path(job["file"])
        assert file.is_relative_to(home / "gallery")
        with PIL.open(file) as picture:
            assert picture.size == (128, 128)
            assert picture.info["parameters"].startswith("a red apple\nSteps: 3, Sampler: ")
            assert f"Seed: {job['params']['seed']}," in picture.info["parameters"]
        with urllib.request.urlopen(served + job["image"]["url"], timeout=10) as reply:
            assert reply.headers.get_content_type() == "image/png"
            assert reply.read() == file.read_bytes()  # whole: not re-encoded, with its recipe inside
        with urllib.request.urlopen(served + job["image"]["thumbnail_url"], timeout=10) as reply:
            assert reply.headers.get_content_type() == "image/webp"

    assert {image["id"] for image in command("gallery")} == {job["image"]["id"] for job in answer["jobs"]}
    [again] = command("again", answer["job_ids"][0])["job_ids"]
    eventually(lambda: command("job", again)["state"] == "done", 60)
    first, second = (Path(command("job", job_id)["file"]) for job_id in (answer["job_ids"][0], again))
    with PIL.open(first) as one, PIL.open(second) as other:
        assert one.tobytes() == other.tobytes()  # the same recipe is the same picture

    [slow] = command("submit", "[slow:30]", "--steps", 10)["job_ids"]
    eventually(lambda: command("job", slow)["state"] == "running", 30)
    assert command("cancel", slow)["cancelled"] == [slow]
    assert command("queue")["counts"]["done"] == 3
    assert "must be a multiple of 8" in command("submit", "x", "--size", "260x256", status=2)
