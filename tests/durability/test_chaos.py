"""Two runs of ``scripts/chaos.py``; longer ones are recorded in ``scripts/results``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import REPOSITORY

pytestmark = pytest.mark.slow


KILLS = "worker,freeze,steal,term,web,supervisor"
FAULTS = "gallery,database,away,hang"


def chaos(tmp_path: Path, **options: object) -> dict[str, Any]:
    """The figures of a run."""
    record = tmp_path / "record.json"
    command = [sys.executable, str(REPOSITORY / "scripts" / "chaos.py"), f"--record={record}", "--clients=4"]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    figures: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    assert figures["violations"] == []
    assert figures["jobs"] == figures["promised_jobs"] == options["jobs"]
    assert figures["kills"]["total"] == options["kills"]
    return figures


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "jobs", "kills"), [(7, 40, 8), (8, 400, 60)])
def test_whatever_is_killed_every_job_ends_once_with_one_picture(
    tmp_path: Path, seed: int, jobs: int, kills: int
) -> None:
    assert chaos(tmp_path, seed=seed, jobs=jobs, kills=kills, workers=2, only=KILLS)["recoveries"] > 0


#: Why a worker may let go of a job although nothing is killed: clients pause the queue and take running jobs back, the
#: run ends with a clean stop and start, and both may have to wait for the database; a prompt with [flaky] fails once.
#: A picture that is made and cannot be saved is no reason: the worker keeps it until it can.
REASONS = {
    "returned to the queue: pause",
    "returned to the queue: shutdown",
    "the database could not be written",
    "engine_error",
}


@pytest.mark.timeout(900)  # eight faults of up to 6 s, each when a worker is at work, which may take 5 s to come
def test_whatever_happens_to_the_storage_no_worker_dies_and_no_picture_is_made_twice(tmp_path: Path) -> None:
    figures = chaos(tmp_path, seed=7, jobs=40, kills=8, workers=1, only=FAULTS)
    assert figures["recoveries"] == 0
    assert set(figures["given_back"]) <= REASONS
    assert figures["attempts"] <= figures["jobs"] + sum(figures["given_back"].values())


@pytest.mark.timeout(900)
def test_kills_in_the_middle_of_faults_of_the_storage(tmp_path: Path) -> None:
    chaos(tmp_path, seed=9, jobs=200, kills=40, workers=2, only=f"{KILLS},{FAULTS}")
