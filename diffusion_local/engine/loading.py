"""Loads the parts of a diffusers folder one at a time, so that progress is visible and the job can be cancelled."""

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights

from diffusion_local.engine import OnProgress, precision, tensors
from diffusion_local.engine.encoders import HEADLESS, Opener
from diffusion_local.errors import ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.folders import is_quantised, weight_files

_LIBRARIES = ("diffusers", "transformers")
_MARKS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def load_parts(model: Model, dtype: torch.dtype, on_progress: OnProgress, opener: Opener) -> dict[str, Any]:
    """Load every part that has weights to the CPU. ``on_progress`` receives the share of bytes loaded."""
    folder = model.folder
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    sizes = precision.read(folder).parts
    parts: dict[str, Any] = {}
    for name in sizes:
        library, class_name = index[name] if isinstance(index.get(name), list) else (None, None)
        cls = component_class(library, class_name) if library and class_name else None
        if cls is not None:
            on_progress(sum(sizes[part] for part in parts) / sum(sizes.values()))
            load = partial(load_part, cls, folder / name, dtype)
            parts[name] = opener.load_part(model, name, dtype, load)
    on_progress(1.0)
    return parts


def component_class(library: str, name: str) -> Any:
    """The class of a pipeline's part, as ``model_index.json`` names it; None if there is none.

    Other libraries are folders of diffusers' pipelines, which have classes of their own.
    """
    module = importlib.import_module(library) if library in _LIBRARIES else getattr(diffusers.pipelines, library, None)
    return getattr(module, HEADLESS.get(name, name), None)


def load_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One part, on the CPU; quantised weights are dequantised to ``dtype``."""
    if is_quantised(folder):
        return load_quantised(cls, folder, dtype)
    return cls.from_pretrained(
        folder, dtype=dtype, variant=variant(folder, dtype), local_files_only=True, use_safetensors=True
    )


def variant(part: Path, dtype: torch.dtype) -> str | None:
    """``fp16`` or ``bf16`` if the part has such files and they match the dtype, or it has no others."""
    marked = {mark: set(part.glob(f"*.{mark}*.safetensors")) for mark in _MARKS}
    whole = set(part.glob("*.safetensors")).difference(*marked.values())
    fitting = [mark for mark, files in marked.items() if files and (_MARKS[mark] == dtype or not whole)]
    return min(fitting, key=lambda mark: _MARKS[mark] != dtype, default=None)


def load_quantised(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Like ``load_part``. Raises ModelUnavailable for a tensor that the files lack or the class does not have."""
    state: tensors.State = {}
    for file in weight_files(folder):
        state |= tensors.read_mapped(file, "")
    state = tensors.dequantise(state, dtype, folder.name)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if hasattr(cls, "config_class") and hasattr(cls.config_class, "from_pretrained"):
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        made, loaded = cls.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
        missing = sorted(loaded["missing_keys"])
    else:
        config = dict(cls.load_config(folder))
        config.pop("quantization_config", None)
        with init_empty_weights():
            made = cls.from_config(config)
        missing = sorted(made.load_state_dict(state, strict=False, assign=True).missing_keys)
    if missing:
        raise ModelUnavailable(message("file_tensor_missing", name=folder.name, tensor=missing[0]))
    return made.eval()
