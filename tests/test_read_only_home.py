"""A home that cannot be written: every command says so in one sentence with what to do, and ends with status 2."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.settings import Settings
from tests.cli.test_cli import COMMANDS
from tests.forking import fork

ARGUMENTS = {
    "serve": ["--no-worker"],
    "worker": ["--slot", "cpu0"],
    "submit": ["a red apple"],
}


@pytest.fixture
def read_only(services: Services) -> Iterator[Path]:
    """The home on a mount of its own, read-only; where mounting is not permitted, without write permissions."""
    home = services.settings.home
    services.database.close()
    mount = shutil.which("mount")
    bound = bool(mount) and not subprocess.run([mount or "", "--bind", home, home], capture_output=True).returncode
    if bound and not subprocess.run([mount or "", "-o", "remount,bind,ro", home], capture_output=True).returncode:
        yield home
        subprocess.run(["umount", "-l", home], check=False)
        return
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield home
    for path in folders:
        path.chmod(0o755)


@dataclass(frozen=True)
class Done:
    returncode: int
    output: str


COMMAND = """
import sys
from scripts.unprivileged import obey_permissions
obey_permissions()
from diffusion_local.cli import main
main()
"""


def run(settings: Settings, folder: Path, *arguments: str) -> Done:
    """A command in a process of its own, for which permissions hold; its output and errors."""
    child = fork("worker", COMMAND, *arguments, env=settings.child_environ(), log=folder / "command.log")
    return Done(child.wait(120), child.log_path.read_text())


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("command", ["serve", "worker", "jobs", "submit", "models", "pause"])
def test_each_command_says_so_and_what_to_do(settings: Settings, read_only: Path, tmp_path: Path, command: str) -> None:
    assert command in COMMANDS
    done = run(settings, tmp_path, command, *ARGUMENTS.get(command, []))
    text = [line for line in done.output.splitlines() if line]
    assert (done.returncode, "Traceback" in done.output) == (2, False), done.output
    assert text[-1].startswith("diffusion-local: ")
    assert "Mount its disk" in text[-1] or "permissions" in text[-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_doctor_names_the_same_cause(settings: Settings, read_only: Path, tmp_path: Path) -> None:
    done = run(settings, tmp_path, "doctor")
    assert (done.returncode, "Traceback" in done.output) == (1, False), done.output
    [line] = [line for line in done.output.splitlines() if "storage" in line]
    assert line.startswith("BAD")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_home_that_cannot_be_made_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "command.log").touch()
    tmp_path.chmod(0o555)
    try:
        done = run(settings, tmp_path, "jobs")
    finally:
        tmp_path.chmod(0o755)
    assert (done.returncode, "Traceback" in done.output) == (2, False), done.output
    assert "permissions" in done.output


@pytest.mark.parametrize("command", ["jobs", "serve", "doctor"])
def test_a_home_that_is_a_file_is_told(settings: Settings, tmp_path: Path, command: str) -> None:
    home = tmp_path / "a_file"
    home.write_text("x")
    done = run(settings, tmp_path, command, *ARGUMENTS.get(command, []), "--home", str(home))
    assert (done.returncode, "Traceback" in done.output) == (2, False), done.output
    assert f"home: must be a folder, but {home} is a file." in done.output
