"""A single-file checkpoint, told from the names and shapes of its tensors.

The key names are those of the original training code; diffusers knows the same ones
(https://huggingface.co/docs/diffusers/api/loaders/single_file).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.adapters import what_else
from diffusion_local.models.architectures import BY_CROSS_ATTENTION
from diffusion_local.models.folders import INPAINT_CHANNELS, REFINER, config_of
from diffusion_local.models.found import EVERY_KIND, INPAINT, Found, incomplete, not_supported
from diffusion_local.models.headers import NO_PICKLE, Header, read_header

SUFFIX = ".safetensors"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
CROSS = ".transformer_blocks.0.attn2.to_k.weight"
VAE = "first_stage_model."
ENCODERS = {
    "sd1": ("cond_stage_model.transformer.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.", "conditioner.embedders.1."),
}
TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
#: Diffusion transformers by a tensor that only they have, with or without the prefix.
TRANSFORMERS = {
    "joint_blocks.0.context_block.adaLN_modulation.1.bias": ("sd3", "SD 3"),
    "single_stream_modulation.lin.weight": ("flux2", "FLUX.2"),
    "distilled_guidance_layer.in_proj.bias": ("chroma", "Chroma"),
    "double_blocks.0.img_attn.norm.key_norm.scale": ("flux", "FLUX.1"),
    "layers.0.adaLN_modulation.0.weight": ("z_image", "Z-Image"),
    "txt_in.text_norm.weight": ("qwen_image", "Qwen-Image"),
}
PREFIX = "model.diffusion_model."


def read_checkpoint(path: Path, configs: Iterable[Path]) -> Found:
    """``configs`` are folders in which a fitting configuration may be, the preferred first."""
    if path.suffix.lower() in PICKLES:
        return not_supported(f"{path.name} is a pickle file. {NO_PICKLE}", size_bytes=path.stat().st_size)
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
    for key, (family, title) in TRANSFORMERS.items():
        if key in header.tensors or PREFIX + key in header.tensors:
            return not_supported(
                f"It is a {title} checkpoint in one file, which holds only a part of what is needed. Get {title} as a "
                "diffusers folder (with model_index.json).",
                family=family,
                architecture=family,
                **known,
            )
    return not_supported(what_else(header) or "It is not a checkpoint of a known kind.", **known)


def read_unet(header: Header, entrance: tuple[int, ...], configs: Iterable[Path], known: dict[str, Any]) -> Found:
    """A Stable Diffusion checkpoint: ``entrance`` is the shape of its UNet's first convolution."""
    width = next((tensor.shape[-1] for key, tensor in sorted(header.tensors.items()) if key.endswith(CROSS)), 0)
    architecture = encoder_of(header) or BY_CROSS_ATTENTION.get(width, "")
    if BY_CROSS_ATTENTION.get(width) == "sdxl_refiner":
        return not_supported(REFINER, architecture="sdxl_refiner", **known)
    if not architecture:
        return not_supported(f"Its UNet reads text {width} numbers wide, which is no known Stable Diffusion.", **known)
    known |= {"family": "sdxl" if architecture == "sdxl" else "sd", "architecture": architecture}
    channels = entrance[1]
    if channels not in (4, INPAINT_CHANNELS):
        return not_supported(f"Its UNet takes {channels} channels, which no supported kind of work has.", **known)
    missing = [words for words, there in parts(header, architecture).items() if not there]
    if missing:
        return not_supported(
            f"The file lacks the {' and the '.join(missing)}: it is one part of a model. Get the full checkpoint.",
            **known,
        )
    kinds = (INPAINT,) if channels == INPAINT_CHANNELS else EVERY_KIND
    config = next((folder for folder in configs if fits(folder, entrance, width)), None)
    if config is None:
        return incomplete(
            f"Its sizes are not those of {TITLES[architecture]}, and no configuration that fits was found. Put the "
            "diffusers folder that it was made from (its .json files and tokenizer are enough) into `configs` in the "
            "home.",
            kinds=kinds,
            **known,
        )
    return Found(kinds=kinds, config=config, scheduler=scheduler_of(header, architecture), **known)


def encoder_of(header: Header) -> str:
    """The architecture as its text encoders say."""
    for architecture in ("sdxl", "sd2", "sd1"):
        if all(any(key.startswith(prefix) for key in header.tensors) for prefix in ENCODERS[architecture]):
            return architecture
    return ""


def parts(header: Header, architecture: str) -> dict[str, bool]:
    """Parts in words, and whether the file holds them."""
    there = {"VAE": any(key.startswith(VAE) for key in header.tensors)}
    encoder = "text encoder" if len(ENCODERS[architecture]) == 1 else "text encoders"
    there[encoder] = all(any(key.startswith(prefix) for key in header.tensors) for prefix in ENCODERS[architecture])
    return there


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
    # Files of SD 2 do not say it. 768 px ones were trained on v, and most are of that kind.
    return {"prediction_type": "v_prediction"} if architecture == "sd2" else {}
