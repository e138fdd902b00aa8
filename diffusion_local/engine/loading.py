"""Loads the parts of a diffusers folder one by one, so that a person sees how far it is and can still cancel."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from diffusion_local.engine import OnProgress, weights

_LIBRARIES = ("diffusers", "transformers")
_MARKS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def load_parts(folder: Path, dtype: torch.dtype, on_progress: OnProgress) -> dict[str, Any]:
    """Every part that has weights, on the CPU. ``on_progress`` is told the share of the bytes that is there."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    sizes = weights.read(folder).parts
    parts: dict[str, Any] = {}
    for name in sizes:
        library, class_name = index[name] if isinstance(index.get(name), list) else (None, None)
        if library in _LIBRARIES and class_name:
            on_progress(sum(sizes[part] for part in parts) / sum(sizes.values()))
            parts[name] = load_part(getattr(importlib.import_module(library), class_name), folder / name, dtype)
    on_progress(1.0)
    return parts


def load_part(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    return cls.from_pretrained(
        folder, dtype=dtype, variant=variant(folder, dtype), local_files_only=True, use_safetensors=True
    )


def variant(part: Path, dtype: torch.dtype) -> str | None:
    """``fp16`` or ``bf16`` where the part has such files and they are what is wanted, or all there is."""
    marked = {mark: set(part.glob(f"*.{mark}*.safetensors")) for mark in _MARKS}
    whole = set(part.glob("*.safetensors")).difference(*marked.values())
    fitting = [mark for mark, files in marked.items() if files and (_MARKS[mark] == dtype or not whole)]
    return min(fitting, key=lambda mark: _MARKS[mark] != dtype, default=None)
