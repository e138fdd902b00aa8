"""Environments for clients, made once for all tests; without a package index their tests are skipped."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from tests.web.conftest import Site

HERE = Path(__file__).resolve().parent
#: What pip and npm say where they reach no index.
UNREACHED = re.compile(
    r"Failed to establish a new connection|Name or service not known|Temporary failure in name resolution"
    r"|Network is unreachable|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH"
)


def installed(*command: str | Path, folder: Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=900)
    if done.returncode:
        text = done.stdout + done.stderr
        if UNREACHED.search(text):
            pytest.skip("there is no package index")
        pytest.fail(text[-3000:])


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with ``requirements.txt``."""
    folder = tmp_path_factory.mktemp("venv")
    installed(sys.executable, "-m", "venv", folder, folder=folder)
    found = folder / "bin" / "python"
    installed(found, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt", folder=folder)
    return found


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of ``package.json`` and the script that calls them."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed (apt-get install npm)")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "in_node.mjs"):
        shutil.copy(HERE / name, folder)
    installed("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", folder=folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of some size."""
    found = tmp_path_factory.mktemp("picture") / "noise.png"
    PIL.effect_noise((512, 512), 90).convert("RGB").save(found)
    return found


def told_by(site: Site, *command: str | Path, folder: Path) -> dict[str, Any]:
    """What a script of calls printed: the value of each by its name, or its error."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    assert lines, done.stderr[-3000:]
    return {each["name"]: each.get("value", each.get("error")) for each in lines}
