"""Two runs of ``scripts/chaos.py``; longer ones are recorded in ``scripts/results``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "jobs", "kills"), [(7, 40, 8), (8, 400, 60)])
def test_whatever_is_killed_every_job_ends_once_with_one_picture(
    tmp_path: Path, seed: int, jobs: int, kills: int
) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, str(REPOSITORY / "scripts" / "chaos.py"), f"--jobs={jobs}", f"--kills={kills}"]
    command += [f"--seed={seed}", f"--record={record}", "--workers=2", "--clients=4"]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    figures = json.loads(record.read_text(encoding="utf-8"))
    assert figures["violations"] == []
    assert figures["jobs"] == figures["promised_jobs"] == jobs
    assert figures["kills"]["total"] == kills
    assert figures["recoveries"] > 0
