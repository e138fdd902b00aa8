import json
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch

from diffusion_local.engine import devices
from diffusion_local.settings import Settings
from diffusion_local.worker.__main__ import open_engine


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


class Card:
    name = "NVIDIA Test 24GB"
    major = 8
    total_memory = 24 * 2**30


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_there_is_the_cpu() -> None:
    [cpu] = devices.find()
    assert (cpu.slot, cpu.torch, cpu.type) == ("cpu0", "cpu", "cpu")
    assert cpu.memory is None or cpu.memory > 2**28


@pytest.mark.usefixtures("two_gpus")
def test_every_gpu_is_found() -> None:
    found = devices.find()
    assert [(d.slot, d.torch, d.bf16, d.type) for d in found] == [
        ("gpu0", "cuda:0", True, "cuda"),
        ("gpu1", "cuda:1", True, "cuda"),
    ]
    assert found[0].memory == Card.total_memory
    assert devices.at_slot("gpu1") == found[1]
    assert devices.at_slot("cpu0").torch == "cpu"
    with pytest.raises(devices.DeviceUnavailable, match=r"'gpu2'.*Known: gpu0, gpu1"):
        devices.at_slot("gpu2")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("built_for", "advice"), [(None, "without GPU support. Install one"), ("13.0", "finds no GPU. See whether")]
)
def test_asking_for_cuda_in_vain_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, advice: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(devices.DeviceUnavailable, match=advice):
        devices.find("cuda")


@pytest.mark.usefixtures("no_gpu")
def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(devices.DeviceUnavailable, match=r"driver is too old .* CUDA 13\.0\)\. Update the driver"):
        devices.find("cuda")


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_lies_idle_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    monkeypatch.setattr(devices, "NVIDIA_MODULE", tmp_path / "version")
    assert devices.unused_gpu() == ""
    (tmp_path / "version").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert devices.main() == 0
    warning = json.loads(capsys.readouterr().out)["warning"]["message"]
    assert warning.startswith("This machine has an NVIDIA GPU, but the CPU is used.")
    assert "without GPU support. Install one" in warning
    assert devices.unused_gpu("cpu") == ""  # it was asked for


@pytest.mark.usefixtures("no_gpu")
def test_other_wishes_that_cannot_be() -> None:
    with pytest.raises(devices.DeviceUnavailable, match="Apple silicon"):
        devices.find("mps")
    with pytest.raises(devices.DeviceUnavailable, match="no device type 'tpu'"):
        devices.find("tpu")
    with pytest.raises(devices.DeviceUnavailable, match=r"slot 'disk0'.*Known: cpu0"):
        devices.at_slot("disk0")


@pytest.mark.usefixtures("no_gpu")
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.main() == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["torch"] == torch.__version__
    assert answer["devices"][0]["slot"] == "cpu0"
    assert devices.main("cuda") == 1
    assert "PyTorch" in json.loads(capsys.readouterr().out)["problem"]["message"]


def test_the_engine_of_the_settings_is_opened() -> None:
    threads = torch.get_num_threads()
    engine = open_engine(Settings.load(threads=1), "cpu0", lambda _: BytesIO())
    torch.set_num_threads(threads)
    assert type(engine).__name__ == "DiffusersEngine"
    assert engine.loaded == ""
    assert "diffusers" in sys.modules
