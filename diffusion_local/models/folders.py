"""Reads a diffusers folder: its family, capabilities and completeness."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.errors import ModelUnavailable
from diffusion_local.families.family import Family
from diffusion_local.messages import Message, message
from diffusion_local.models import integrity
from diffusion_local.models.description import ModelFacts, incomplete, not_supported, recognised
from diffusion_local.models.foreign_pipelines import unsupported_class
from diffusion_local.models.headers import read_header
from diffusion_local.models.weights import LOADED, TITLES, numbers_in, precision_of, quantisation_of
from diffusion_local.options.types import Kind

#: File in which our own downloads record their origin.
ORIGIN = "diffusion-local.json"

#: Quantisation methods, as named in configurations, that are dequantised at loading: integers with one scale per row,
#: and bitsandbytes' int8, nf4 and fp4.
DEQUANTISED = ("int8_rows", "bitsandbytes")
#: Input channels of an inpainting denoiser: the latents, the mask, and the masked picture.
INPAINT_CHANNELS = 9


def read_folder(folder: Path) -> ModelFacts:
    if not folder.exists():
        return incomplete(message("file_folder_away", name=folder.name))
    try:
        index = read_json_object(folder / "model_index.json")
        if not isinstance(index.get("_class_name", ""), str):
            raise ValueError("no class")
    except FileNotFoundError:
        return incomplete(no_index(folder))
    except (OSError, ValueError):
        return incomplete(message("model_index_damaged"))
    name = index.get("_class_name", "")
    weights = list(folder.rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in weights)
    family, kinds = families.of_pipeline(name)
    known: dict[str, Any] = {"family": family.id, "size_bytes": size, **read_origin(folder)}
    if family is families.UNKNOWN:
        return not_supported(unsupported_class(name), **known)
    if not weights:
        return incomplete(message("no_weights_why"), **known)
    try:
        integrity.check(folder)
        known |= {"memory_bytes": memory_bytes(folder, index), "precision": precision_of_folder(folder)}
        return describe(folder, family, kinds, known, name)
    except ModelUnavailable as problem:
        return incomplete(problem.message, **known)


def describe(folder: Path, family: Family, kinds: tuple[Kind, ...], known: dict[str, Any], pipeline: str) -> ModelFacts:
    """The facts about a folder: its architecture, and what the denoiser's input and weights allow."""
    architecture = family.architecture_of(lambda part: read_config(folder / part, part), pipeline)
    known |= {"architecture": architecture}
    if problem := families.ARCHITECTURES[architecture].problem or family.problem:
        return (not_supported if architecture == "sdxl_refiner" else recognised)(problem, **known)
    if method := unsupported_quantisation(folder):
        return recognised(message("file_folder_quantised", method=method), **known)
    if not family.unet:
        return ModelFacts(kinds=kinds, **known)
    channels = read_config(folder / "unet").get("in_channels", 4)
    if channels == INPAINT_CHANNELS:
        return ModelFacts(kinds=(Kind.INPAINT,), **known)
    channels_of_vae = read_config(folder / "vae").get("latent_channels", 4)
    if channels != channels_of_vae * (2 if families.ARCHITECTURES[architecture].needs_reference else 1):
        return not_supported(message("unet_channels", channels=channels), **known)
    return ModelFacts(kinds=kinds, **known)


def unsupported_quantisation(folder: Path) -> str:
    """The quantisation method of the first part that cannot be dequantised, or ""."""
    for path in sorted(folder.glob("*/config.json")):
        method = quantisation_method(path.parent)
        if method and method not in DEQUANTISED:
            return method
        if (scheme := stored_scheme(path.parent)) not in LOADED:
            return TITLES.get(scheme, scheme)
    return ""


def quantisation_method(part: Path) -> str:
    """Quantisation method named by the configuration, such as ``bitsandbytes``; "" for plain weights."""
    noted = read_config(part).get("quantization_config")
    if not isinstance(noted, dict):
        return ""
    return str(noted.get("quant_method") or noted.get("quantization_method") or "an unknown method")[:40]


def stored_scheme(part: Path) -> str:
    """The storage scheme of a part's weights, derived from its tensors; "" for plain weights."""
    schemes = (quantisation_of(read_header(path)) for path in weight_files(part))
    return next((scheme for scheme in schemes if scheme), "")


def is_quantised(part: Path) -> bool:
    """Whether a part's weights need dequantising. Reads tensors too, because configurations do not mention fp8.

    Raises ModelUnavailable.
    """
    return bool(quantisation_method(part) or stored_scheme(part))


def precision_of_folder(folder: Path) -> str:
    """Precision of the denoiser's weights."""
    for name in ("transformer", "unet"):
        for path in weight_files(folder / name)[:1]:
            with suppress(ModelUnavailable):
                header = read_header(path)
                return precision_of(header.tensors, quantisation_of(header))
    return ""


def memory_bytes(folder: Path, index: dict[str, Any]) -> int:
    """Memory of all loaded parts in fp16; weights stored in several forms count once."""
    total = 0
    for name, spec in index.items():
        if integrity.is_component(spec) and name not in integrity.UNUSED and (folder / name).is_dir():
            headers = [read_header(path) for path in weight_files(folder / name)]
            if is_quantised(folder / name):
                total += sum(2 * numbers_in(header.tensors) for header in headers)
            else:
                total += sum(header.memory_bytes() for header in headers)
    return total


def weight_files(part: Path) -> list[Path]:
    """Weight files of a part that are loaded: the fp16 variant if there is one."""
    found = sorted(part.glob("*.safetensors"))
    half = [path for path in found if ".fp16" in path.name]
    rest = half or [path for path in found if path.name.count(".") == 1 or "-of-" in path.name]
    return rest or found


def encoder_in(folder: Path) -> Path | None:
    """The weight file of an image encoder's folder; None unless there is exactly one."""
    found = sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 else None


def small_vae_in(folder: Path) -> Path | None:
    """The weight file of a small VAE's folder; None for other folders."""
    return encoder_in(folder) if read_config(folder).get("_class_name") == "AutoencoderTiny" else None


def no_index(folder: Path) -> Message:
    """The message about a folder without model_index.json."""
    if any(folder.glob("*.ckpt")) or any(folder.glob("*.pt")):
        return message("pickle_folder")
    if (folder / "config.json").exists():
        return message("model_one_part")
    return message("model_no_index")


def read_origin(folder: Path) -> dict[str, str]:
    """The hub id recorded by our download, as a field of ModelFacts."""
    try:
        hub_id = read_json_object(folder / ORIGIN).get("repo")
    except (OSError, ValueError):
        return {}
    return {"hub_id": hub_id} if isinstance(hub_id, str) else {}


def read_config(part: Path, name: str = "") -> dict[str, Any]:
    """The configuration of a part, or of the component ``scheduler``; empty if it cannot be read."""
    try:
        return read_json_object(part / ("scheduler_config.json" if name == "scheduler" else "config.json"))
    except (OSError, ValueError):
        return {}


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises OSError, and ValueError if the file is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content
