"""The dtype a model runs in, by device and family.

A rule that depends on the machine and the model only, so that equal seeds give equal pictures on it.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from diffusion_local import families
from diffusion_local.engine import weights
from diffusion_local.engine.memory import DENOISERS, Weights
from diffusion_local.errors import UserError
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.headers import GGUF
from diffusion_local.models.probe import DENOISER

#: Parameters from which a model is worth bf16 on a CPU that computes in it: 1.6 times as fast as fp32 with SD 1.5.
LARGE = 400_000_000
#: Bytes of one number, by torch's name of the dtype.
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: The setting that keeps the denoiser in 8 bits.
FP8 = "fp8"
_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def dtype_of(setting: str, device: str, family: str, parameters: int, bf16: bool) -> str:
    """torch's name of the dtype. ``device``: cuda, mps, cpu; ``bf16``: whether the device computes in it natively."""
    if setting in _NAMES:
        return _NAMES[setting]
    if device == "cuda":
        return "float16" if families.get(family).half or not bf16 else "bfloat16"
    if device == "cpu":
        return "bfloat16" if bf16 and parameters >= LARGE else "float32"
    return "float32"  # fp16 gives black pictures with some models on Apple GPUs


def storage_scheme(setting: str, model: Model) -> str:
    """Storage format of the denoiser's weights if it differs from the compute dtype: ``fp8``, the file's type such as
    ``Q8_0``, or ""."""
    denoiser = next((each for each in model.sources if each.part == DENOISER), None)
    if denoiser and denoiser.container == GGUF:
        return denoiser.precision
    return FP8 if setting == FP8 else ""


def stored_weights(setting: str, model: Model) -> Weights:
    """Weights of a model's parts, with the bytes of those stored in another format than the compute dtype."""
    found, how = weights.model_weights(model), storage_scheme(setting, model)
    name = next((each for each in DENOISERS if each in found.parts), "")
    if not how or not name:
        return found
    size = next((each.size for each in model.sources if each.part == DENOISER), 0)
    return replace(found, kept={name: found.parts[name] if how == FP8 else size})


def check(setting: str, device: str) -> None:
    """Raises UserError for a precision that this device only emulates."""
    if setting == "fp16" and device == "cpu":
        raise UserError(message("fp16_cpu"))


@lru_cache(maxsize=1)
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices itself. False where its flags cannot be read."""
    try:
        return multiplies_bf16(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def multiplies_bf16(cpuinfo: str) -> bool:
    """Whether Linux's CPU flags have AVX512-BF16, AMX or Arm's BF16."""
    lines = (line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(next(lines, [])))


def describe(dtype: str, kept: str) -> str:
    """Display text: ``bf16``; ``Q8_0, computed in bf16``."""
    short = next((name for name, each in _NAMES.items() if each == dtype), dtype)
    return f"{kept}, computed in {short}" if kept else short
