"""The benchmark runs from end to end with small models, so that a lease of a GPU is not spent on a slip."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_a_tiny_run_fills_each_section(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    script = REPOSITORY / "scripts" / "bench_gpu.py"
    command = [sys.executable, script, "--tiny", "--folder", tmp_path, "--out", out]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=600)
    found = json.loads(out.read_text())
    measured = {name: each for name, each in found.items() if isinstance(each, dict) and "took" in each}
    named = set(re.findall(r'record\("([^"{]+)"', script.read_text(encoding="utf-8")))
    assert len(named) > 5
    assert named <= set(measured)
    assert len(measured) >= 25
    assert measured["sd15 graphs"]["equal"]
    assert measured["sd15 loras"]["rungs"]["resident"]["changes_the_picture"]
    assert str(tmp_path) not in out.read_text()
    assert [name for name, each in measured.items() if "failed" in each] == []
    assert measured["sdxl resident"]["same_seed_twice_equal"]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # the models are gone


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_a_tiny_run_of_the_whole_app_compares_it_with_a_bare_loop(tmp_path: Path) -> None:
    out = tmp_path / "app.json"
    script = REPOSITORY / "scripts" / "bench_app_gpu.py"
    sizes = ["--models", "sd15", "--pictures", "4", "--rounds", "1", "--warm", "4", "--waiting", "1"]
    command = [sys.executable, script, "--tiny", *sizes, "--folder", tmp_path, "--out", out]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=600)
    found = json.loads(out.read_text())
    for run in ("fast:1", "fast:auto"):
        row = found["sd15"][run]
        assert row["seconds_a_picture"] > 0
        assert row["times_as_fast_as_bare"] > 0
        assert row["made_by"]["speed"] == "exact"  # fused kernels are for GPUs
    assert len(found["sd15"]["bare"]) == len(found["sd15"]["bare_8_at_once"]) == 1
    waits = found["sd15"]["fast:auto"]["somebody_waits"]
    assert 0 < waits["beside_a_list"]["until_claimed"][0] < waits["beside_a_list"]["until_there"][2]
    assert str(tmp_path) not in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["app.json"]


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_a_tiny_run_holds_models_in_every_format(tmp_path: Path) -> None:
    out = tmp_path / "precision.json"
    script = REPOSITORY / "scripts" / "bench_precision.py"
    command = [sys.executable, script, "--tiny", "--models", "flux1_dev", "qwen_image", "--out", out]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=600)
    found = json.loads(out.read_text())
    rows = found["rows"]
    assert found["not_run"] == []
    assert rows["flux1_dev bf16 streamed at 8"]["relative_error"] == 0
    assert 0 < rows["flux1_dev int8 whole"]["relative_error"] < 0.05
    assert rows["flux1_dev nf4 whole"]["relative_error"] == rows["flux1_dev nf4 streamed at 8"]["relative_error"] > 0
    assert rows["flux1_dev q8_0 whole"]["seconds_a_picture"] > 0
    assert rows["qwen_image fp8 whole"]["seconds_a_picture"] > 0
    assert rows["t5_xxl nf4 read"]["seconds"] > 0
    assert str(tmp_path) not in out.read_text()
