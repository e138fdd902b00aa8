"""The dtype a model runs in, by device and family, and the number of weights in each part. Torch-free.

The choice depends on the machine and the model only, so that equal seeds give equal pictures on one machine.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from diffusion_local import families
from diffusion_local.engine.memory import DENOISERS, Weights
from diffusion_local.errors import ModelUnavailable, UserError
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.folders import read_config
from diffusion_local.models.headers import GGUF, read_header
from diffusion_local.models.integrity import UNUSED
from diffusion_local.models.probe import DENOISER
from diffusion_local.models.weights import counts_of


def model_weights(model: Model) -> Weights:
    """Weights of a model in a folder or assembled from files."""
    if not model.sources:
        return read(model.path)
    counts = {each.slot: each.count for each in model.sources}
    return weights_of(counts, model.folder, any(each.slot == "text_encoder_2" for each in model.sources))


def read(path: Path) -> Weights:
    """Weights of a diffusers folder. Unreadable files count as 0; loading them raises the error."""
    files = tuple(sorted(path.rglob("*.safetensors")))
    return _read(path, tuple((file, _changed(file)) for file in files))


@lru_cache(maxsize=64)
def _read(path: Path, files: tuple[tuple[Path, int], ...]) -> Weights:
    sizes: dict[str, dict[str, int]] = {}  # by tensor too: a folder may have the same one in two precisions
    for file, _ in files:
        part = file.relative_to(path).parts[0]
        if part not in UNUSED and (counts := _counts(file)):
            sizes.setdefault(part, {}).update(counts)
    return weights_of({part: sum(counts.values()) for part, counts in sizes.items()}, path, "text_encoder_2" in sizes)


def weights_of(counts: dict[str, int], folder: Path, second: bool) -> Weights:
    """``second``: whether there is a second text encoder, which with a UNet only SDXL has."""
    config = read_config(folder / "vae")
    return Weights(
        parts=counts,
        vae_channels=(config.get("block_out_channels") or [128])[0],
        upcasts_vae="unet" in counts and second and config.get("force_upcast", True),
    )


def _counts(file: Path) -> dict[str, int]:
    try:
        return counts_of(read_header(file).tensors)
    except ModelUnavailable:
        return {}


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


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
    found, how = model_weights(model), storage_scheme(setting, model)
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
