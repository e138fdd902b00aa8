"""curl, as the manual writes it, against a running server."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image as PIL

from tests.web.conftest import Site

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, timeout=90, check=True)
    return done.stdout.decode()


def test_submit_wait_and_fetch(site: Site, tmp_path: Path) -> None:
    body = json.dumps({"prompt": "a red apple", "width": 128, "height": 128, "steps": 4})
    answer = json.loads(
        curl(f"{site.url}/api/v1/jobs", "-H", "Content-Type: application/json", "-H", "Prefer: wait=60", "-d", body)
    )
    assert answer["finished"] is True
    url = site.url + answer["jobs"][0]["image"]["url"]
    curl("-o", str(tmp_path / "a.png"), url)
    assert PIL.open(tmp_path / "a.png").size == (128, 128)
    assert "accept-ranges: bytes" in curl("-I", url).lower()
    curl("-r", "0-3", "-o", str(tmp_path / "part"), url)
    assert (tmp_path / "part").read_bytes() == b"\x89PNG"


def test_a_picture_and_a_list_are_sent_and_a_job_is_followed(site: Site, tmp_path: Path) -> None:
    PIL.new("RGB", (128, 128), "red").save(tmp_path / "apple.png")
    (tmp_path / "night.csv").write_text("prompt,steps\na cat,4\na dog,4\n")
    job = json.dumps({"prompt": "a green apple", "strength": 0.5, "steps": 4})
    answer = json.loads(curl(f"{site.url}/api/v1/jobs", "-F", f"job={job}", "-F", f"source=@{tmp_path / 'apple.png'}"))
    stream = curl("-N", f"{site.url}/api/v1/jobs/{answer['job_ids'][0]}/stream")
    assert stream.startswith("retry: 2000")
    assert "event: end" in stream
    listed = json.loads(curl("-F", f"file=@{tmp_path / 'night.csv'}", f"{site.url}/api/v1/lists?width=128&height=128"))
    assert listed["count"] == 2
    assert "event: end" in curl("-N", f"{site.url}/api/v1/batches/{listed['batch_id']}/stream")
