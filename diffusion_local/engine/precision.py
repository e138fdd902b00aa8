"""Chooses the dtype that a model computes in and the form in which its weights are held, and counts them. Torch-free.

The rules depend only on the machine, the model and the settings, so that equal seeds give equal pictures on a machine.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import psutil

from diffusion_local import families
from diffusion_local.domain import DeviceMemory
from diffusion_local.engine.kept_blocks import sizes_by_name
from diffusion_local.engine.memory import DENOISERS, Weights, format_gib
from diffusion_local.errors import ModelUnavailable, UserError
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Model
from diffusion_local.models.file_formats import open_header
from diffusion_local.models.folders import read_config, weight_files
from diffusion_local.models.headers import GGUF, Tensor
from diffusion_local.models.integrity import UNUSED
from diffusion_local.models.probe import DENOISER
from diffusion_local.models.weights import counts_of

#: From this number of parameters, CPUs with native bf16 use it: 1.6 times as fast as fp32 with SD 1.5.
LARGE = 400_000_000
#: Bytes per number, by torch's name of the dtype.
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Text encoders with at least this many parameters are held in int8 if the denoiser is in int8 or nf4.
HEAVY_ENCODER = 1_000_000_000
#: Share of main memory that weights may take before ``auto`` quantises them.
MAIN_SHARE = 0.8
_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def model_weights(model: Model) -> Weights:
    """Weights of a model, from its folder or its single files."""
    if not model.sources:
        return read(model.path)
    counts = {each.slot: each.count for each in model.sources}
    by_slot = {
        each.slot: _blocks_of_file(each.path, _changed(each.path), each.prefix) for each in model.sources if each.count
    }
    blocks = {slot: matrices for slot, (matrices, _) in by_slot.items() if matrices}
    units = {slot: sizes for slot, (_, sizes) in by_slot.items() if sizes}
    second = any(each.slot == "text_encoder_2" for each in model.sources)
    return weights_of(counts, model.folder, second, blocks, units)


def read(path: Path) -> Weights:
    """Weights of a diffusers folder. Unreadable files count as 0: loading them will raise the error."""
    files = tuple(sorted(path.rglob("*.safetensors")))
    return _read(path, tuple((file, _changed(file)) for file in files))


@lru_cache(maxsize=64)
def _read(path: Path, files: tuple[tuple[Path, int], ...]) -> Weights:
    sizes: dict[str, dict[str, int]] = {}  # also by tensor: a folder may contain the same one in two precisions
    matrices: dict[str, dict[str, int]] = {}
    for file, _ in files:
        part = file.relative_to(path).parts[0]
        if part not in UNUSED and (tensors := _tensors(file)):
            sizes.setdefault(part, {}).update(counts_of(tensors))
            matrices.setdefault(part, {}).update(in_blocks(tensors))
    counts, blocks = ({part: sum(found.values()) for part, found in each.items()} for each in (sizes, matrices))
    units = {part: sizes_by_name(found) for part, found in sizes.items()}
    return weights_of(counts, path, "text_encoder_2" in sizes, blocks, units)


def weights_of(
    counts: dict[str, int], folder: Path, second: bool, blocks: dict[str, int], units: dict[str, tuple[int, ...]]
) -> Weights:
    """Weights from parameter counts. ``second``: whether there is a second text encoder (with a UNet: only SDXL)."""
    config = read_config(folder / "vae")
    return Weights(
        parts=counts,
        vae_channels=(config.get("block_out_channels") or [128])[0],
        upcasts_vae="unet" in counts and second and config.get("force_upcast", True),
        blocks=blocks,
        units={part: sizes for part, sizes in units.items() if sizes and part != "vae"},
    )


def in_blocks(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of parameters of each matrix in a numbered block: those that ``engine.quantised`` replaces."""
    counts = counts_of(tensors)
    return {
        name: counts[name]
        for name, tensor in tensors.items()
        if name in counts
        and len(tensor.shape) == 2
        and name.endswith(".weight")
        and any(word.isdigit() for word in name.split(".")[:-2])
    }


@lru_cache(maxsize=256)
def _blocks_of_file(file: Path, changed: int, prefix: str) -> tuple[int, tuple[int, ...]]:
    """Numbers of parameters of a part in a file or folder: in the matrices of its blocks, and in each block.

    ``changed`` is only a cache key.
    """
    files = weight_files(file) if file.is_dir() else [file]
    tensors = {name: each for path in files for name, each in _tensors(path).items()}
    own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    return sum(in_blocks(own).values()), sizes_by_name(counts_of(own))


def _tensors(file: Path) -> Mapping[str, Tensor]:
    try:
        return open_header(file).header.tensors
    except ModelUnavailable:
        return {}


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


#: Settings that hold weights in fewer bits than the compute dtype, and the one (STORED) that holds them as in the file.
FP8, INT8, NF4, STORED = "fp8", "int8", "nf4", "stored"
#: Bytes per number in a model's blocks; nf4 has a two-byte scale for every 64 numbers.
BYTES_OF_FORM = {FP8: 1.0, INT8: 1.0, NF4: 0.5 + 2 / 64}
#: The form that holds a file of this precision without loss.
FORMS_OF_FILES = {"fp8_e4m3": FP8, "int8": INT8, "nf4": NF4}


def dtype_of(setting: str, device: str, family: str, parameters: int, bf16: bool) -> str:
    """torch's name of the compute dtype. ``device``: cuda, mps or cpu; ``bf16``: whether it has native bf16."""
    if setting in _NAMES:
        return _NAMES[setting]
    if device == "cuda":
        return "float16" if families.get(family).half or not bf16 else "bfloat16"
    if device == "cpu":
        return "bfloat16" if bf16 and parameters >= LARGE else "float32"
    return "float32"  # fp16 gives black pictures with some models on Apple GPUs


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are held.

    ``denoiser``: fp8, int8, nf4 or a GGUF type; empty for the compute dtype. ``encoders``: int8 or empty, for heavy
    text encoders. ``why``: the reason, if ``auto`` chose to quantise.
    """

    denoiser: str = ""
    encoders: str = ""
    why: str = ""

    def of_parts(self, parts: Mapping[str, int]) -> dict[str, str]:
        """The form of each part that is not held in the compute dtype. ``parts``: number of parameters by part."""
        forms = {part: self.denoiser for part in parts if part in DENOISERS}
        forms |= {
            part: self.encoders
            for part, count in parts.items()
            if part.startswith("text_encoder") and count >= HEAVY_ENCODER
        }
        return {part: form for part, form in forms.items() if form}


def form_of(setting: str, model: Model, room: DeviceMemory, main: int) -> Form:
    """How a model's weights are held on a device. ``main``: bytes of main memory.

    Weights are quantised if the setting or the model's own choice requires it. ``auto`` quantises only weights that fit
    neither into main memory nor onto the device, and takes the least lossy form that fits.
    """
    found = _wanted_form(setting, model, room, main)
    heavy = any(part.startswith("text_encoder") for part in found.of_parts(model_weights(model).parts))
    return found if heavy or not found.encoders else replace(found, encoders="")


def _wanted_form(setting: str, model: Model, room: DeviceMemory, main: int) -> Form:
    precision_setting = model.chosen_precision or setting
    denoiser = next((each for each in model.sources if each.part == DENOISER), None)
    if denoiser and denoiser.container == GGUF:
        return Form(denoiser.precision, INT8 if precision_setting in (INT8, NF4) else "")
    stored = Form(FORMS_OF_FILES.get(denoiser.precision if denoiser else model.precision, ""))
    if precision_setting in (INT8, NF4):
        return Form(precision_setting, INT8)
    if precision_setting in (FP8, STORED):
        return Form(FP8) if precision_setting == FP8 else stored
    if precision_setting != "auto":
        return Form()
    found = model_weights(model)
    dtype = dtype_of("auto", room.type, model.family, sum(found.parts.values()), room.bf16)
    forms = [form for form in (Form(), stored, Form(INT8, INT8), Form(NF4, INT8)) if form == Form() or form.denoiser]
    sizes = [sum(bytes_of_parts(found, form, NUMBER_BYTES[dtype]).values()) for form in forms]
    most = max(int(main * MAIN_SHARE), room.bytes if room.type == "cuda" else 0)
    chosen = next((form for form, size in zip(forms, sizes, strict=True) if size <= most), forms[-1])
    if chosen == Form() or not main:
        return Form()
    why = message("form_chosen", size=format_gib(sizes[0]), main=format_gib(main), form=chosen.denoiser)
    return replace(chosen, why=why)


def parameters_of(model: Model) -> int:
    return sum(model_weights(model).parts.values())


def held_weights(model: Model, form: Form, number_bytes: int) -> Weights:
    """Weights of a model, with the bytes of the parts that are not held in the compute dtype (``kept``)."""
    found = model_weights(model)
    size = next((each.size for each in model.sources if each.part == DENOISER and each.container == GGUF), 0)
    stored = {part: bytes_of_part(found, part, how, number_bytes) for part, how in form.of_parts(found.parts).items()}
    return replace(found, kept=stored | {part: size for part in stored if part in DENOISERS and size})


def bytes_of_parts(weights: Weights, form: Form, number_bytes: int) -> dict[str, int]:
    """Bytes of each part of a model held in a form. ``number_bytes``: of the compute dtype."""
    forms = form.of_parts(weights.parts)
    return {part: bytes_of_part(weights, part, forms.get(part, ""), number_bytes) for part in weights.parts}


def bytes_of_part(weights: Weights, part: str, form: str, number_bytes: int) -> int:
    """Bytes of a part. int8 and nf4 apply only to the matrices in its blocks."""
    count = weights.parts[part]
    blocks = count if form == FP8 else min(count, weights.blocks.get(part, count))
    return int(blocks * BYTES_OF_FORM.get(form, number_bytes) + (count - blocks) * number_bytes)


@lru_cache(maxsize=1)
def main_memory() -> int:
    """Total main memory in bytes, within the container's limit if there is one."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # not on Linux, or no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return total


def check(setting: str, device: str) -> None:
    """Raise UserError for a precision that this device only emulates."""
    if found := problem(setting, device):
        raise UserError(found)


def problem(setting: str, device: str) -> Message | None:
    """Why a device does not run models in this precision; None if it does."""
    return message("fp16_cpu") if setting == "fp16" and device == "cpu" else None


@lru_cache(maxsize=1)
def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices natively. False if its flags cannot be read."""
    try:
        return multiplies_bf16(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False


def multiplies_bf16(cpuinfo: str) -> bool:
    """Whether the flags in Linux's /proc/cpuinfo include AVX512-BF16, AMX-BF16 or Arm's BF16."""
    lines = (line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(next(lines, [])))


def describe(dtype: str, stored: str) -> str:
    """Display text: ``bf16``, or ``Q8_0, computed in bf16``."""
    short = next((name for name, each in _NAMES.items() if each == dtype), dtype)
    return f"{stored}, computed in {short}" if stored else short
