"""GPUs as the driver tells them: by a driver of the test's own; none where there is none."""

from types import SimpleNamespace
from typing import Any

import pytest

from diffusion_local.compose import open_files
from diffusion_local.health.doctor import examine
from diffusion_local.settings import Settings
from diffusion_local.system import gpus
from diffusion_local.system.gpus import Gpu
from tests.support import run_python


class NVMLError(Exception):
    pass


class Driver:
    """Answers as pynvml does; what is in ``silent`` it does not know."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *silent: str) -> None:
        self.silent = silent

    def __getattr__(self, name: str) -> Any:
        short = name.removeprefix("nvmlDeviceGet")
        answers: dict[str, Any] = {
            "Count": 2,
            "MemoryInfo": SimpleNamespace(used=3_000_000_000, total=80_000_000_000),
            "Name": b"NVIDIA H100",
            "UtilizationRates": SimpleNamespace(gpu=42),
            "Temperature": 61,
            "PowerUsage": 312_500,
            "PowerManagementLimit": 500_000,
            "PowerManagementDefaultLimit": 700_000,
            "ComputeRunningProcesses": [SimpleNamespace(pid=7, usedGpuMemory=2_000_000_000)],
            "GraphicsRunningProcesses": [SimpleNamespace(pid=8, usedGpuMemory=None)],
            "HandleByIndex": object(),
        }

        def answer(*_: Any) -> Any:
            if short in self.silent:
                raise NVMLError("Not Supported")
            return answers[short]

        return answer


def test_everything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "library", Driver)
    first, second = gpus.read()
    assert first == Gpu(
        0, "NVIDIA H100", 3_000_000_000, 80_000_000_000, 61, 0.42, 312.5, 500.0, 700.0, ((7, 2_000_000_000), (8, 0))
    )
    assert (first.slot, second.slot) == ("gpu0", "gpu1")
    assert first.summary() == (
        "NVIDIA H100: 3.0 of 80.0 GB used, 61 °C, at most 500 W (held below its usual 700 W, so it is slower)"
    )


def test_what_a_gpu_does_not_say_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = ("Temperature", "UtilizationRates", "PowerUsage", "PowerManagementLimit", "PowerManagementDefaultLimit",
              "ComputeRunningProcesses", "GraphicsRunningProcesses")  # fmt: skip
    monkeypatch.setattr(gpus, "library", lambda: Driver(*silent))
    assert gpus.read()[0] == Gpu(0, "NVIDIA H100", 3_000_000_000, 80_000_000_000)
    assert gpus.read()[0].summary() == "NVIDIA H100: 3.0 of 80.0 GB used"


def test_a_driver_that_fails_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "library", lambda: Driver("Count"))
    assert gpus.read() == []


def test_a_machine_without_the_library_or_the_driver_has_none() -> None:
    assert run_python(
        "import sys; sys.modules['pynvml'] = None\nfrom diffusion_local.system import gpus; print(gpus.read())"
    ) == ("[]\n")


def test_the_doctor_tells_them(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(gpus, "library", Driver)
    found = {each.name: each for each in examine(settings, open_files(settings))}
    assert found["gpu0"].ok
    assert "held below its usual 700 W" in found["gpu1"].text
