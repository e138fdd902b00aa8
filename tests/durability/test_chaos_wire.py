"""Chaos over the wire, in small: three workers, two of them behind a proxy that delays, cuts and holds connections."""

import os
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("variant", [[], ["--cluster"]], ids=["one machine's studio", "cluster"])
def test_no_job_is_lost_doubled_or_left_running(variant: list[str]) -> None:
    command = [sys.executable, "scripts/chaos_wire.py", "--jobs", "80", "--faults", "8", "--seconds", "700", *variant]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=850)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-4000:]
