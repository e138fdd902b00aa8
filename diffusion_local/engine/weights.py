"""How many numbers each part of a model holds, from the headers of its safetensors files. Torch-free."""

from functools import lru_cache
from pathlib import Path

from diffusion_local.engine.memory import Weights
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.folders import config_of
from diffusion_local.models.headers import read_header
from diffusion_local.models.integrity import UNUSED

#: Keys of a single-file checkpoint begin with these.
_PREFIXES = {
    "model.diffusion_model.": "denoiser",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.": "text_encoder",
    "text_encoders.": "text_encoder",
}


def read(path: Path) -> Weights:
    """Of a diffusers folder or a single file. A file that cannot be read counts nothing: loading it will say why."""
    files = tuple(sorted(path.rglob("*.safetensors"))) if path.is_dir() else (path,)
    return _read(path, tuple((file, _changed(file)) for file in files))


@lru_cache(maxsize=64)
def _read(path: Path, files: tuple[tuple[Path, int], ...]) -> Weights:
    sizes: dict[str, dict[str, int]] = {}  # by tensor too: a folder may have the same one in two precisions
    for file, _ in files:
        part = file.relative_to(path).parts[0] if file != path else ""
        if part not in UNUSED:
            for tensor, count in _counts(file).items():
                sizes.setdefault(part or _part_of(tensor), {})[tensor] = count
    config = config_of(path / "vae")
    sdxl = "unet" in sizes and "text_encoder_2" in sizes
    sdxl |= any(tensor.startswith("conditioner.") for tensor in sizes.get("text_encoder", ()))
    return Weights(
        parts={part: sum(counts.values()) for part, counts in sizes.items()},
        vae_channels=(config.get("block_out_channels") or [128])[0],
        upcasts_vae=sdxl and config.get("force_upcast", True),
    )


def _counts(file: Path) -> dict[str, int]:
    try:
        return {name: tensor.count for name, tensor in read_header(file).tensors.items()}
    except ModelUnavailable:
        return {}


def _part_of(tensor: str) -> str:
    return next((part for prefix, part in _PREFIXES.items() if tensor.startswith(prefix)), "denoiser")


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
