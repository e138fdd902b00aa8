"""Adapters that diffusers does not load, added to the outputs of a model's layers as it runs.

No weight changes: an adapter leaves no trace when it goes, its strength can change from picture to picture, and the
weights may be quantised or lie in main memory until they are needed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from diffusion_local.engine import differences
from diffusion_local.engine.adapter_names import Layers
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.models import lora_layers

#: Adapters of more bytes wait in main memory, and each of their layers comes when it is called.
MOST_KEPT = 1 << 30
#: Text encoders by what ``lora_layers.locate`` calls them.
ENCODERS = {"te": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}


class UnmatchedLayer(Exception):
    """The model has no layer for one of the adapter's; its name is the argument."""


class HookedAdapter:
    """An adapter in a model, with the strength ``weight``. It is there until ``remove``."""

    def __init__(self, pipe: Any, tensors: Mapping[str, torch.Tensor], family: str) -> None:
        """``tensors`` are those of the file. Raises Misfit, and ValueError for tensors that do not fit together."""
        self.weight = 1.0
        self._handles: list[Any] = []
        denoiser: Any = denoiser_of(pipe)
        device, dtype = pipe._execution_device, denoiser.dtype
        kept = sum(each.nbytes for each in tensors.values()) <= MOST_KEPT
        planned = list(match_layers(pipe, tensors, family))
        for module, parts, rows in planned:
            check_shapes(module, parts, rows)
        for module, parts, rows in planned:
            here = {name: each.to(device if kept else "cpu", dtype) for name, each in parts.items() if name != "alpha"}
            if "alpha" in parts:
                here["alpha"] = parts["alpha"].float()  # stays where Python reads it
            self._handles.append(module.register_forward_hook(self._hook(here, rows)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, parts: dict[str, torch.Tensor], rows: slice | None) -> Any:
        def add(module: torch.nn.Module, given: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if not self.weight:
                return output
            inside = given[0]
            here = {
                name: each if name == "alpha" else each.to(inside.device, inside.dtype) for name, each in parts.items()
            }
            weight = weight_of(module) if "dora" in parts else None
            return output + self.weight * differences.output_delta(module, here, rows, weight, inside)

        return add


def match_layers(
    pipe: Any, tensors: Mapping[str, torch.Tensor], family: str
) -> Iterator[tuple[torch.nn.Module, dict[str, torch.Tensor], slice | None]]:
    """Each layer that the adapter changes, with its tensors and the rows of them that are the layer's."""
    stems: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        stem, end = lora_layers.split_name(name)
        if end:
            stems[stem][end] = tensor
    places: dict[str, tuple[dict[str, torch.nn.Module], Layers]] = {}
    for stem, parts in stems.items():
        _, where, bare = lora_layers.locate(stem)
        if where not in places:
            part = getattr(pipe, ENCODERS[where], None) if where else denoiser_of(pipe)
            modules = {} if part is None else adaptable_layers(part)
            per_level = getattr(getattr(part, "config", None), "layers_per_block", 2)
            places[where] = modules, Layers(modules, "" if where else family, per_level)
        modules, layers = places[where]
        targets = layers.named(bare)
        if not targets:
            if set(parts) == {"alpha"} or (where and bare.endswith("text_projection")):
                continue  # changes nothing, or what the model does not use
            raise UnmatchedLayer(stem)
        first = 0
        for target in targets:
            module = modules[target]
            rows = None if len(targets) == 1 else slice(first, first + out_features(module))
            first += out_features(module)
            yield module, parts, rows


def adaptable_layers(part: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Linear layers and convolutions by their names, without what peft puts around them."""
    found = {}
    for name, module in part.named_modules():
        inside = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        outer = ".lora_" not in name and not name.endswith(".base_layer")
        if outer and (isinstance(inside, torch.nn.Conv2d) or hasattr(inside, "in_features")):
            found[name] = inside
    return found


def out_features(module: Any) -> int:
    return int(module.out_channels if isinstance(module, torch.nn.Conv2d) else module.out_features)


def check_shapes(module: torch.nn.Module, parts: Mapping[str, torch.Tensor], rows: slice | None) -> None:
    """Raises ValueError for tensors that the layer cannot take."""
    try:
        with torch.device("meta"):
            shaped = {name: torch.empty(each.shape) for name, each in parts.items() if name != "alpha"}
            if not set(shaped) <= {"diff_b", "bias"}:
                change = differences.weight_delta(shaped)
                change = change if rows is None else change[rows]
                columns = differences.weight_shape(module, change)
                if change.shape[0] != out_features(module) or change[0].numel() != torch.Size(columns).numel():
                    raise ValueError("size mismatch")
                reads = getattr(module, "in_features", None)
                if reads is not None and change[0].numel() != reads:
                    raise ValueError("size mismatch")
    except (KeyError, RuntimeError) as error:
        raise ValueError("shape") from error


def weight_of(module: Any) -> torch.Tensor:
    """The layer's weight, wherever it waits. Raises ValueError for one that is not numbers."""
    weight = module.weight
    if weight.is_meta:
        weight = module._hf_hook.weights_map["weight"]
    if not weight.is_floating_point():
        raise ValueError("a quantised weight")
    found: torch.Tensor = weight
    return found
