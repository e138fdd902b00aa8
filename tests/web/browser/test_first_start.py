"""``serve`` on a new home, met in a browser while everything starts: nothing complains."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import kill_tree
from tests.servers import answers
from tests.support import REPOSITORY, eventually
from tests.web.browser.conftest import Person
from tests.web.browser.page_actions import batch_in_strip, generate
from tests.web.conftest import Site, free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def statistics_are_written(home: Path) -> bool:
    """Whether the upkeep of the database is over, which begins with the first chores after the start."""
    with closing(sqlite3.connect(f"file:{home / 'app.db'}?mode=ro", uri=True)) as conn:
        return bool(conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchall())


def test_a_new_home_starts_without_a_complaint(chromium: Any, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "serve.log"
    url = f"http://127.0.0.1:{port}"
    settings = {"home": str(tmp_path / "home"), "engine": "fake", "port": str(port)}
    environ = os.environ | {f"DIFFUSION_LOCAL_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", "from diffusion_local.cli import main; main()", "serve"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=out, stderr=subprocess.STDOUT)
    person = Person(chromium.new_context(), Site(url, None))  # type: ignore[arg-type]
    try:
        eventually(lambda: answers(url), 90, 0.2)
        page = person.open()
        generate(page, "a red apple")
        batch_in_strip(page, "a red apple").locator(".shot.done").wait_for()
        eventually(lambda: statistics_are_written(tmp_path / "home"), 60, 0.2)
        said = log.read_text(encoding="utf-8")
    finally:
        person.context.close()
        kill_tree(process)
    assert "is at http://" in said
    assert not [line for line in said.splitlines() if any(word in line for word in ("Traceback", "locked", "ERROR"))]
    assert person.complaints == []
