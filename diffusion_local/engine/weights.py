"""How many numbers each part of a model holds, from the headers of its files. Torch-free."""

from functools import lru_cache
from pathlib import Path

from diffusion_local.engine.memory import Weights
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model
from diffusion_local.models.folders import read_config
from diffusion_local.models.headers import read_header
from diffusion_local.models.integrity import UNUSED
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
