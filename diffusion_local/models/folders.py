"""A diffusers folder: which family it is of, what it can do and whether it is whole, told from its own files."""

import json
from pathlib import Path
from typing import Any

from diffusion_local import families
from diffusion_local.errors import ModelUnavailable, echo
from diffusion_local.families.family import Family
from diffusion_local.messages import Message, message
from diffusion_local.models import whole
from diffusion_local.models.found import Found, incomplete, not_supported
from diffusion_local.models.headers import read_header
from diffusion_local.options.types import Kind

#: What our own downloads leave in the folder: where it came from.
ORIGIN = "diffusion-local.json"

#: Input channels of a denoiser whose further ones carry the mask and the picture under it.
INPAINT_CHANNELS = 9


def read_folder(folder: Path) -> Found:
    try:
        index = read_object(folder / "model_index.json")
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
    known: dict[str, Any] = {"family": family.id, "size_bytes": size, **origin(folder)}
    if family is families.UNKNOWN:
        return not_supported(message("pipeline_class", name=echo(name)), **known)
    if not weights:
        return incomplete(message("no_weights_why"), **known)
    try:
        whole.check(folder)
        known |= {"memory_bytes": memory_bytes(folder, index)}
        return describe(folder, family, kinds, known)
    except ModelUnavailable as problem:
        return incomplete(problem.message, **known)


def describe(folder: Path, family: Family, kinds: tuple[Kind, ...], known: dict[str, Any]) -> Found:
    """The architecture, and what the denoiser's input allows."""
    architecture = family.architecture_of(lambda part: config_of(folder / part))
    known |= {"architecture": architecture}
    if problem := families.ARCHITECTURES[architecture].problem:
        return not_supported(problem, **known)
    if not family.unet:
        return Found(kinds=kinds, **known)
    channels = config_of(folder / "unet").get("in_channels", 4)
    if channels == INPAINT_CHANNELS:
        return Found(kinds=(Kind.INPAINT,), **known)
    if channels != config_of(folder / "vae").get("latent_channels", 4):
        return not_supported(message("unet_channels", channels=channels), **known)
    return Found(kinds=kinds, **known)


def memory_bytes(folder: Path, index: dict[str, Any]) -> int:
    """Of all loaded parts, in fp16; of weights that are there in several forms only one counts."""
    total = 0
    for name, spec in index.items():
        if isinstance(spec, list) and name not in whole.UNUSED and (folder / name).is_dir():
            total += sum(read_header(path).memory_bytes() for path in loaded_weights(folder / name))
    return total


def loaded_weights(part: Path) -> list[Path]:
    """The weight files of a part that are loaded: the fp16 variant's where there is one."""
    found = sorted(part.glob("*.safetensors"))
    half = [path for path in found if ".fp16" in path.name]
    rest = half or [path for path in found if path.name.count(".") == 1 or "-of-" in path.name]
    return rest or found


def no_index(folder: Path) -> Message:
    """What a folder is that has no model_index.json, as far as that helps."""
    if any(folder.glob("*.ckpt")) or any(folder.glob("*.pt")):
        return message("pickle_folder")
    if (folder / "config.json").exists():
        return message("model_one_part")
    return message("model_no_index")


def origin(folder: Path) -> dict[str, str]:
    """hub_id, as our download noted it down."""
    try:
        hub_id = read_object(folder / ORIGIN).get("repo")
    except (OSError, ValueError):
        return {}
    return {"hub_id": hub_id} if isinstance(hub_id, str) else {}


def config_of(part: Path) -> dict[str, Any]:
    try:
        return read_object(part / "config.json")
    except (OSError, ValueError):
        return {}


def read_object(path: Path) -> dict[str, Any]:
    """Raises OSError, and ValueError if it is not a JSON object."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content
