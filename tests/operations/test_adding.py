"""An operation is added by its declaration and its method; tried in a copy of the package, at every interface."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import PACKAGE, REPOSITORY

DECLARATION = """
        "size": op(
            READ,
            SEEN,
            get("/boards/{board_id}/size"),
            endpoint="board_size",
            answer=Named("size"),
            doc="How many pictures are on a board.",
        ),
"""
METHOD = '''
    def size(self, board_id: str, most: int = 1000) -> int:
        """At most ``most``."""
        return min(most, self.get(board_id).count)
'''
USE = """
import json, sys
from pathlib import Path
from fastapi.testclient import TestClient
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_studio
from diffusion_local.remote.studio import RemoteStudio
from diffusion_local.settings import Settings
from diffusion_local.web.app import create_app

run_as(LOCAL)
settings = Settings.load(environ={}, home=Path(sys.argv[1]), engine="fake", auth="none", allowed_hosts="testserver")
studio = open_studio(settings)
board = studio.boards.create("all")
client = TestClient(create_app(studio, settings))
remote = RemoteStudio("testserver")
remote._server._client = client
document = client.get("/openapi.json").json()
operation = document["paths"]["/api/v1/boards/{board_id}/size"]["get"]
answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
print(json.dumps({
    "http": client.get(f"/api/v1/boards/{board.id}/size", params={"most": 5}).json(),
    "unknown": client.get("/api/v1/boards/nobody/size").status_code,
    "gradio": client.post("/gradio_api/run/board_size", json={"data": [board.id]}).json()["data"],
    "remote": remote.boards.size(board.id, most=7),
    "operation_id": operation["operationId"],
    "description": operation["description"],
    "takes": [each["name"] for each in operation["parameters"]],
    "answer": document["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["properties"],
}))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "diffusion_local")  # with what is compiled
    (tmp_path / "assets").symlink_to(REPOSITORY / "assets")
    return tmp_path


def insert(file: Path, before: str, text: str) -> None:
    code = file.read_text(encoding="utf-8")
    assert code.count(before) == 1
    file.write_text(code.replace(before, text.lstrip("\n") + before), encoding="utf-8")


def run(copy: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow  # starts the copy in a process of its own; tests/operations/test_registry.py holds the contract
def test_a_declaration_and_a_method_reach_every_interface(copy: Path) -> None:
    insert(copy / "diffusion_local/operations/gallery.py", '        "of_image": op(READ, SEEN),\n', DECLARATION)
    insert(copy / "diffusion_local/gallery/boards.py", "    def of_image(self", METHOD.rstrip("\n") + "\n\n")
    found = run(copy, USE, str(copy / "home"))
    assert found.returncode == 0, found.stderr
    answer: dict[str, Any] = json.loads(found.stdout)
    assert (answer["http"], answer["unknown"], answer["gradio"], answer["remote"]) == (
        {"size": 0},
        404,
        [{"size": 0}],
        0,
    )
    assert (answer["operation_id"], answer["takes"]) == ("boards_size", ["board_id", "most"])
    assert answer["description"] == "How many pictures are on a board."
    assert answer["answer"]["size"]["type"] == "integer"


@pytest.mark.slow  # the same of a class in this process: tests/web/authority/test_walk.py
def test_a_method_without_a_declaration_does_not_start(copy: Path) -> None:
    insert(copy / "diffusion_local/gallery/boards.py", "    def of_image(self", METHOD.rstrip("\n") + "\n\n")
    found = run(copy, "import diffusion_local.studio")
    assert "the registry of operations differ: ['size']" in found.stderr
