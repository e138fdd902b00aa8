"""The command `models` and what is below it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffusion_local.cli import app
from diffusion_local.compose import open_services
from diffusion_local.domain import DeviceMemory
from diffusion_local.engine.memory import GIB
from diffusion_local.errors import InvalidParams
from diffusion_local.settings import Settings
from tests.models import files
from tests.models.files import write_header


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_it_lists_shows_adds_and_removes(settings: Settings, tmp_path: Path) -> None:
    path = write_header(tmp_path / "data/mine.safetensors", files.SD1)
    assert run().startswith("starter")
    assert "mine" in run("add", str(path))
    shown = run("info", "mine")
    assert "sd (sd1)" in shown
    assert str(path) in shown
    assert [each["id"] for each in json.loads(run("--json"))] == ["starter", "mine"]
    assert "where they were" in run("remove", "mine")
    with pytest.raises(InvalidParams):
        run("add", str(tmp_path / "none"))


def test_it_tells_how_a_device_will_hold_a_model(settings: Settings) -> None:
    workers = open_services(settings).workers
    workers.register("gpu0", 1, "A GPU", DeviceMemory("cuda", 12 * GIB, True))
    workers.update("gpu0", "idle", free=12 * GIB)
    assert "gpu0: all of it stays in memory (fp16), about " in run()
    assert "starter at 256x256 needs about" in run("info", "starter")
    assert "gpu0: all of it stays in memory (nf4, computed in fp16), about " in run("precision", "starter", "nf4")
    assert "precision chosen for it: nf4" in run("info", "starter")
    assert "as the setting precision" in run("precision", "starter")
    [plan] = json.loads(run("info", "starter", "--json"))["memory_plan"]
    assert (plan["slot"], plan["rung"], plan["total_bytes"], plan["fits"]) == ("gpu0", "resident", 12 * GIB, True)


def test_a_scan_lists_everything(settings: Settings) -> None:
    settings.make_folders()
    write_header(settings.loras / "style.safetensors", files.LORA)
    write_header(settings.upscalers / "bad.safetensors", files.LORA)
    text = run("scan")
    assert "loras/style" in text
    assert "upscalers/bad" in text
    assert "not ready: It is a LoRA" in text


def test_downloads_wait_in_line_and_are_cancelled(settings: Settings) -> None:
    assert run("downloads") == "none yet\n"
    download = json.loads(run("download", "a/b", "--json"))
    assert download["state"] == "waiting"
    assert "a/b" in run("downloads")
    assert "cancelled" in run("cancel", download["id"])
    assert "civitai:128713" in run("download", "https://civitai.com/models/4384/x?modelVersionId=128713")
    assert "stabilityai/sdxl-turbo" in run("known")
