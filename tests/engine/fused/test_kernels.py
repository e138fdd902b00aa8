"""The Triton kernels against plain torch: in Triton's interpreter on the CPU, and on a GPU.

In a process of its own: Triton reads whether to interpret when it is first imported, which torch may have done here.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(660)
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed; torch's CUDA builds bring it")
def test_kernels_compute_what_torch_computes() -> None:
    check({"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
def test_kernels_compute_it_on_a_gpu() -> None:
    check({})


def check(changes: dict[str, str]) -> None:
    checks = Path(__file__).with_name("kernels_interpreted.py")
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environ = os.environ | {"PYTHONPATH": paths} | changes
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    assert "passed" in ran.stdout
    assert "skipped" not in ran.stdout
