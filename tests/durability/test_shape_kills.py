"""A short run of ``scripts/shape_kills.py``; one that kills each feature in each phase is in ``scripts/results``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)
def test_pictures_of_every_feature_survive_kills_of_their_worker_unchanged(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, str(REPOSITORY / "scripts/shape_kills.py"), "--jobs=32", "--kills=16"]
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*command, f"--record={record}"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    figures = json.loads(record.read_text(encoding="utf-8"))
    assert (figures["kills"], figures["pictures"], figures["equal_pictures"]) == (16, 32, 32)
    hits = figures["kills_by_feature"]
    assert len(hits) == 17
    assert all(sum(each.values()) == 1 for name, each in hits.items() if name != "captions")
    assert figures["incomplete"] == 0
