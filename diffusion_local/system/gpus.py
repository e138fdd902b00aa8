"""GPU state from NVIDIA's management library (NVML), without torch. Empty on machines without an NVIDIA GPU."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. Memory in bytes, temperature in °C, power in watts, ``busy`` from 0 to 1; None if the driver does not
    report it.

    ``processes``: (process id as the driver sees it, bytes). ``index``: the driver's order.
    """

    index: int
    name: str
    used: int
    total: int
    temperature: int | None = None
    busy: float | None = None
    power: float | None = None
    power_limit: float | None = None
    usual_limit: float | None = None
    processes: tuple[tuple[int, int], ...] = ()

    @property
    def slot(self) -> str:
        return f"gpu{self.index}"

    def summary(self) -> str:
        """Memory, temperature and power limit as text, where known."""
        parts = [f"{self.name}: {self.used / 1e9:.1f} of {self.total / 1e9:.1f} GB used"]
        if self.temperature is not None:
            parts.append(f"{self.temperature} °C")
        if self.power_limit is not None:
            parts.append(f"at most {self.power_limit:.0f} W")
            if self.usual_limit is not None and self.power_limit < self.usual_limit - 1:
                parts[-1] += f" (held below its usual {self.usual_limit:.0f} W, so it is slower)"
        return ", ".join(parts)


def read() -> list[Gpu]:
    """Current state of all GPUs; empty without library or driver."""
    nvml = library()
    if nvml is None:
        return []
    try:
        return [read_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        log.debug("the GPUs cannot be read: %s", error)
        return []


@lru_cache(1)
def library() -> Any:
    """The initialised NVML; None without it or without a GPU driver."""
    try:
        import pynvml  # type: ignore[import-untyped]

        pynvml.nvmlInit()
    except Exception as error:  # not installed, or no driver; the error depends on the system
        log.debug("no NVIDIA GPU can be read: %s", error)
        return None
    return pynvml


def read_gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def query(question: Callable[..., Any], *more: Any) -> Any:
        """The result of an NVML query; None if this GPU or container does not support it."""
        with contextlib.suppress(nvml.NVMLError):
            return question(handle, *more)
        return None

    def watts(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1000

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    rates = query(nvml.nvmlDeviceGetUtilizationRates)
    processes: dict[int, int] = {}
    for question in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for each in query(question) or ():
            processes[each.pid] = max(processes.get(each.pid, 0), each.usedGpuMemory or 0)
    return Gpu(
        index,
        name.decode() if isinstance(name, bytes) else name,
        memory.used,
        memory.total,
        query(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        rates and rates.gpu / 100,
        watts(query(nvml.nvmlDeviceGetPowerUsage)),
        watts(query(nvml.nvmlDeviceGetPowerManagementLimit)),
        watts(query(nvml.nvmlDeviceGetPowerManagementDefaultLimit)),
        tuple(sorted(processes.items())),
    )


def used_by_others(gpu: Gpu, ours: dict[int, bool]) -> int:
    """Bytes of GPU memory used by other programs. ``ours``: our process ids, and whether each has a model loaded.

    In a container process ids differ: if one of ours has a model loaded but is not listed, usage cannot be attributed
    and 0 is returned.
    """
    seen = {pid for pid, _ in gpu.processes}
    if any(ours.values()) and not seen & set(ours):
        return 0
    return sum(used for pid, used in gpu.processes if pid not in ours)
