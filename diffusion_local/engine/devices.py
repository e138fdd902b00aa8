"""The devices of this machine.

``python -m diffusion_local.engine.devices [auto|cuda|mps|cpu]`` prints them as JSON, for programs that must not import
torch: ``{"torch": "2.13.0+cpu", "devices": [{"slot": "cpu0", ...}], "warning": ""}``, or
``{"torch": ..., "problem": "..."}`` and exit code 1.
"""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from diffusion_local.engine import precision
from diffusion_local.errors import UserError
from diffusion_local.messages import Message, message, serialize

NVIDIA_MODULE = Path("/proc/driver/nvidia/version")
_KINDS = {"gpu": "cuda", "mps": "mps", "cpu": "cpu"}


class DeviceUnavailable(UserError):
    """This machine has no such device."""

    code = "device_unavailable"


@dataclass(frozen=True, slots=True)
class Device:
    """A device that runs one worker. ``torch``: its name in torch (``cuda:0``); ``memory``: total bytes; ``bf16``:
    whether it supports bfloat16 natively.
    """

    slot: str
    torch: str
    words: str
    memory: int | None = None
    bf16: bool = False

    @property
    def type(self) -> str:
        return self.torch.partition(":")[0]


def find(name: str = "auto") -> list[Device]:
    """All devices of the wanted type; ``auto`` means all CUDA GPUs, else Apple's GPU, else the CPU.

    Raises DeviceUnavailable if torch cannot use the requested type here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    match name:
        case "cuda":
            return _cuda()
        case "mps":
            return _mps()
        case "cpu":
            return [Device("cpu0", "cpu", "CPU", _physical_memory(), precision.cpu_has_bf16())]
    raise DeviceUnavailable(message("device_type", device=name))


def at_slot(slot: str) -> Device:
    """The device of a slot such as ``gpu1``. Any number of slots may share the CPU.

    Raises DeviceUnavailable if there is none.
    """
    kind = re.sub(r"\d+$", "", slot)
    devices = find(_KINDS[kind]) if kind in _KINDS else []
    for device in devices:
        if device.slot == slot:
            return device
        if device.type == "cpu" and kind != slot:
            return replace(device, slot=slot)
    known = [device.slot for device in devices or find()]
    raise DeviceUnavailable(message("device_slot", slot=slot, known=known))


def _cuda() -> list[Device]:
    if not torch.cuda.is_available():
        raise DeviceUnavailable(_why_no_cuda())
    devices = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = card.major >= 8 or torch.version.hip is not None  # Ampere and newer
        devices.append(Device(f"gpu{index}", f"cuda:{index}", card.name, card.total_memory, bf16))
    return devices


def _why_no_cuda() -> Message:
    if torch.version.cuda is None and torch.version.hip is None:
        return message("no_gpu_build", version=torch.__version__)
    try:
        torch.cuda.init()
        reason = ""
    except (RuntimeError, AssertionError) as error:
        reason = str(error)
    if "too old" in reason:
        return message("old_driver", version=torch.__version__, cuda=torch.version.cuda)
    return message("no_gpu_found", version=torch.__version__)


def unused_gpu(name: str = "auto") -> str:
    """Why the CPU is used although the machine has an NVIDIA GPU; "" if the GPU is used or there is none."""
    if name != "auto" or torch.cuda.is_available() or not has_nvidia():
        return ""
    return message("unused_gpu", why=_why_no_cuda())


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is installed, judged by its kernel module (Linux) or tool; a CPU build of torch cannot
    tell.
    """
    return NVIDIA_MODULE.exists() or shutil.which("nvidia-smi") is not None


def _mps() -> list[Device]:
    if not torch.backends.mps.is_available():
        raise DeviceUnavailable(message("device_mps", version=torch.__version__))
    return [Device("mps0", "mps", "Apple GPU", _physical_memory())]


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def main(name: str = "auto") -> int:
    try:
        warning = unused_gpu(name)
        warning_json = serialize(warning) | {"message": warning} if warning else None
        answer = {"devices": [asdict(device) for device in find(name)], "warning": warning_json}
    except DeviceUnavailable as error:
        problem = serialize(error.message) | {"message": error.message}
        print(json.dumps({"torch": torch.__version__, "problem": problem}))
        return 1
    print(json.dumps({"torch": torch.__version__, **answer}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
