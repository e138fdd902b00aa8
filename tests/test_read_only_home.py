"""A home that cannot be written: every command says so in one sentence with what to do, and ends with status 2."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.settings import Settings
from scripts.unprivileged import obey_permissions
from tests.cli.test_cli import COMMANDS
from tests.support import REPOSITORY

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


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffusion_local", *arguments],
        env=settings.child_environ() | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=obey_permissions,
    )


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("command", ["serve", "worker", "jobs", "submit", "models", "pause"])
def test_each_command_says_so_and_what_to_do(settings: Settings, read_only: Path, command: str) -> None:
    assert command in COMMANDS
    done = run(settings, command, *ARGUMENTS.get(command, []))
    told = [line for line in done.stderr.splitlines() if line]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert told[-1].startswith("diffusion-local: ")
    assert "Mount its disk" in told[-1] or "permissions" in told[-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_doctor_names_the_same_cause(settings: Settings, read_only: Path) -> None:
    done = run(settings, "doctor")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    [line] = [line for line in done.stdout.splitlines() if "storage" in line]
    assert line.startswith("BAD")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_home_that_cannot_be_made_is_told(settings: Settings, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        done = run(settings, "jobs")
    finally:
        tmp_path.chmod(0o755)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "permissions" in done.stderr


@pytest.mark.parametrize("command", ["jobs", "serve", "doctor"])
def test_a_home_that_is_a_file_is_told(settings: Settings, tmp_path: Path, command: str) -> None:
    home = tmp_path / "a_file"
    home.write_text("x")
    done = run(settings, command, *ARGUMENTS.get(command, []), "--home", str(home))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert f"home: must be a folder, and {home} is a file." in done.stderr
