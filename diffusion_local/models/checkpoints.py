"""A single-file checkpoint, told from the names and shapes of its tensors.

The key names are those of the original training code; diffusers knows the same ones
(https://huggingface.co/docs/diffusers/api/loaders/single_file).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.adapters import what_else
from diffusion_local.models.folders import INPAINT_CHANNELS, config_of
from diffusion_local.models.found import Found, incomplete, not_supported
from diffusion_local.models.headers import Header, read_header
from diffusion_local.options.option import DENOISED
from diffusion_local.options.types import Kind

SUFFIX = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
CROSS = ".transformer_blocks.0.attn2.to_k.weight"
VAE = "first_stage_model."
PREFIX = "model.diffusion_model."


def read_checkpoint(path: Path, configs: Iterable[Path]) -> Found:
    """``configs`` are folders in which a fitting configuration may be, the preferred first."""
    if path.suffix.lower() in PICKLES:
        return not_supported(message("model_pickle", name=path.name), size_bytes=path.stat().st_size)
    try:
        header = read_header(path)
    except ModelUnavailable as problem:
        return incomplete(problem.message)
    known: dict[str, Any] = {
        "size_bytes": header.size,
        "memory_bytes": header.memory_bytes(),
        "title": header.metadata.get("modelspec.title", "")[:100],
        "licence": header.metadata.get("modelspec.license", "")[:100],
    }
    entrance = header.shape(UNET_IN)
    if entrance is not None and len(entrance) == 4:
        return read_unet(header, entrance, configs, known)
    family = families.of_checkpoint(header.tensors, PREFIX)
    if family is not families.UNKNOWN:
        return not_supported(
            message("model_one_file_part", title=family.title, again=family.title),
            family=family.id,
            architecture=family.id,
            **known,
        )
    return not_supported(what_else(header) or message("model_unknown"), **known)


def read_unet(header: Header, entrance: tuple[int, ...], configs: Iterable[Path], known: dict[str, Any]) -> Found:
    """A Stable Diffusion checkpoint: ``entrance`` is the shape of its UNet's first convolution."""
    width = next((tensor.shape[-1] for key, tensor in sorted(header.tensors.items()) if key.endswith(CROSS)), 0)
    by_width = families.BY_TEXT_WIDTH.get(width, "")
    if by_width and (problem := families.ARCHITECTURES[by_width].problem):
        return not_supported(problem, architecture=by_width, **known)
    architecture = encoder_of(header) or by_width
    if not architecture:
        return not_supported(message("unet_width", width=width), **known)
    known |= {"family": families.of_architecture(architecture).id, "architecture": architecture}
    channels = entrance[1]
    if channels not in (4, INPAINT_CHANNELS):
        return not_supported(message("unet_channels", channels=channels), **known)
    missing = [words for words, there in parts(header, architecture).items() if not there]
    if missing:
        return not_supported(
            message("file_lacks", parts=" and the ".join(missing)),
            **known,
        )
    kinds = (Kind.INPAINT,) if channels == INPAINT_CHANNELS else DENOISED
    config = next((folder for folder in configs if fits(folder, entrance, width)), None)
    if config is None:
        return incomplete(
            message("no_configuration", title=families.title_of(architecture)),
            kinds=kinds,
            **known,
        )
    return Found(kinds=kinds, config=config, scheduler=scheduler_of(header, architecture), **known)


def encoder_of(header: Header) -> str:
    """The architecture by its text encoders."""
    there = (name for name, each in families.ARCHITECTURES.items() if each.encoders and holds(header, each.encoders))
    return next(there, "")


def holds(header: Header, prefixes: Iterable[str]) -> bool:
    """Whether each of the prefixes begins the name of a tensor."""
    return all(any(key.startswith(prefix) for key in header.tensors) for prefix in prefixes)


def parts(header: Header, architecture: str) -> dict[str, bool]:
    """Parts in words, and whether the file holds them."""
    encoders = families.ARCHITECTURES[architecture].encoders
    words = "text encoder" if len(encoders) == 1 else "text encoders"
    return {"VAE": holds(header, (VAE,)), words: holds(header, encoders)}


def fits(folder: Path, entrance: tuple[int, ...], width: int) -> bool:
    """Whether a configuration's UNet has these sizes; the channels of a mask may come on top."""
    unet = config_of(folder / "unet")
    channels = unet.get("block_out_channels")
    same = isinstance(channels, list) and channels[:1] == [entrance[0]]
    return same and unet.get("cross_attention_dim") == width


def scheduler_of(header: Header, architecture: str) -> dict[str, Any]:
    """What the checkpoint says about how it was trained, as entries of a diffusers scheduler's configuration."""
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in header.tensors or told.startswith("v"):
        prediction = {"prediction_type": "v_prediction"}
        return prediction | ({"rescale_betas_zero_snr": True} if "ztsnr" in header.tensors else {})
    if told.startswith("eps"):
        return {"prediction_type": "epsilon"}
    usual = families.ARCHITECTURES[architecture].prediction
    return {"prediction_type": usual} if usual else {}
