"""Which files of a repository make a model that runs: configurations, tokenizers and one form of the weights."""

import re
from typing import Any

from diffusion_local.errors import HubProblem, echo
from diffusion_local.hub.client import Listing, RemoteFile
from diffusion_local.messages import message
from diffusion_local.models.whole import UNUSED

INDEX = "model_index.json"
LIGHT = (".json", ".txt", ".model", ".jinja")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
#: Forms of the same weights, the smaller first; the last is the one without a mark.
VARIANTS = (".fp16", ".bf16", "")
VARIANT = re.compile(r"\.(fp16|bf16|non_ema|ema_only|fp32)\b")


def files_of_model(listing: Listing, index: dict[str, Any]) -> list[RemoteFile]:
    """For a diffusers folder, whose ``model_index.json`` names its parts. Raises HubProblem."""
    chosen = [file for file in listing.files if file.path == INDEX]
    for name, spec in index.items():
        if isinstance(spec, list) and len(spec) == 2 and spec[1] is not None and name not in UNUSED:
            inside = [file for file in listing.files if file.path.startswith(f"{name}/") and file.path.count("/") == 1]
            chosen += light_files(inside) + weights(listing.repo, name, inside)
    if len(chosen) < 2:
        raise HubProblem(kind="not_a_model", message=message("hub_no_parts", repo=listing.repo))
    return chosen


def light_files(inside: list[RemoteFile]) -> list[RemoteFile]:
    return [file for file in inside if file.path.endswith(LIGHT) and ".index." not in file.path]


def weights(repo: str, name: str, inside: list[RemoteFile]) -> list[RemoteFile]:
    """One form of a part's weights, with the index of its shards."""
    tensors = [file for file in inside if file.path.endswith(".safetensors")]
    if not tensors:
        if any(file.path.endswith(PICKLED) for file in inside):
            raise HubProblem(kind="pickle", message=message("pickle_part", repo=repo, name=name))
        return []
    for variant in VARIANTS:
        found = [file for file in inside if is_weight(file) and marks(file) == ({variant} if variant else set())]
        if any(file.path.endswith(".safetensors") for file in found):
            return found
    return tensors


def is_weight(file: RemoteFile) -> bool:
    return file.path.endswith(".safetensors") or (".safetensors.index" in file.path and file.path.endswith(".json"))


def marks(file: RemoteFile) -> set[str]:
    return {f".{found}" for found in VARIANT.findall(file.path)}


def single_file(listing: Listing, path: str) -> RemoteFile:
    """Raises HubProblem."""
    if path.endswith(PICKLED):
        raise HubProblem(kind="pickle", message=message("model_pickle", name=path))
    file = listing.file(path)
    if file is None:
        there = [each.path for each in listing.files if each.path.endswith(".safetensors")][:8]
        raise HubProblem(
            kind="unknown_file",
            message=message("hub_has_no_file", repo=listing.repo, path=echo(path), known=", ".join(there) or "none"),
        )
    return file


def no_index(listing: Listing) -> HubProblem:
    """Why a repository without a model_index.json is no model, and what can be had from it."""
    there = [each.path for each in listing.files if each.path.endswith(".safetensors")]
    if there:
        return HubProblem(
            kind="not_a_model",
            message=message("hub_one_of", repo=listing.repo, known=list(there[:8])),
        )
    return HubProblem(kind="not_a_model", message=message("hub_no_model", repo=listing.repo))
