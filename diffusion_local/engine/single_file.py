"""A pipeline out of one checkpoint file, without a network: sizes and tokenizer come from a folder of configurations.

diffusers asks the hub for them where it is not given a folder, even with ``local_files_only``; so it always is.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffusion_local.domain import Kind
from diffusion_local.engine.families import FAMILIES
from diffusion_local.errors import ModelUnavailable, echo
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.folders import INPAINT_CHANNELS
from diffusion_local.settings import assets


def load(model: Model, dtype: torch.dtype) -> Any:
    """A pipeline on the CPU. Raises ModelUnavailable, and what diffusers raises."""
    load_file = FAMILIES[model.family].load_file
    if load_file is None or model.file is None:
        raise ModelUnavailable(message("one_file", model=echo(model.id)))
    with tempfile.TemporaryDirectory(prefix="diffusion-local-") as folder:
        only_inpaints = model.kinds == (Kind.INPAINT,)
        config = merge(model.folder, Path(folder), model.scheduler, only_inpaints=only_inpaints)
        return load_file(named(model.file, Path(folder)), config, dtype)


def named(file: Path, folder: Path) -> Path:
    """The file under a name that diffusers reads as safetensors: it goes by the end of the name, as it is written."""
    if file.suffix == ".safetensors":
        return file
    link = folder / "weights.safetensors"
    link.symlink_to(file.resolve())
    return link


def merge(config: Path, folder: Path, scheduler: Mapping[str, Any], only_inpaints: bool) -> Path:
    """A folder of configurations as diffusers wants it: small files only, changed as the checkpoint asks."""
    target = folder / "config"
    shutil.copytree(config, target, ignore=heavy, dirs_exist_ok=True)
    for tokenizer in target.glob("tokenizer*"):
        if not any((tokenizer / name).exists() for name in ("vocab.json", "tokenizer.json", "spiece.model")):
            shutil.copytree(assets() / "configs/clip_tokenizer", tokenizer, dirs_exist_ok=True)
    change(target / "scheduler/scheduler_config.json", dict(scheduler))
    if only_inpaints:
        change(target / "unet/config.json", {"in_channels": INPAINT_CHANNELS})
    return target


def heavy(folder: str, names: list[str]) -> list[str]:
    """Everything that is no configuration or vocabulary, for `copytree`."""
    light = (".json", ".txt", ".model")
    return [
        name
        for name in names
        if not (Path(folder) / name).is_dir() and (not name.endswith(light) or name.endswith(".index.json"))
    ]


def change(path: Path, entries: dict[str, Any]) -> None:
    if entries:
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")
