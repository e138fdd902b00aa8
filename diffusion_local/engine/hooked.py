"""Adapters that diffusers does not load, added to the outputs of a model's layers by forward hooks.

Weights stay unchanged, so an adapter can be removed without a trace, its strength can differ per picture, and weights
may be quantised or offloaded to main memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.functional import conv2d, group_norm, layer_norm, linear

from diffusion_local.engine.adapter_names import Layers
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.quantised import QuantisedLinear
from diffusion_local.engine.weight_deltas import (
    MULTIPLYING,
    Parts,
    alpha_scale,
    dora_delta,
    ia3_factors,
    multiplied,
    weight_delta,
)
from diffusion_local.models import lora_layers

#: Adapters larger than this (bytes) stay in main memory; each layer's tensors are copied to the device at its call.
MOST_KEPT_BYTES = 1 << 30
#: Text encoder attributes of a pipeline by the names that ``lora_layers.locate`` returns.
ENCODER_PARTS = {"te": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}


NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm)


class UnmatchedLayer(Exception):
    """The model has no layer that matches one of the adapter's. The argument is that layer's name."""


class HookedAdapter:
    """An adapter attached to a model until ``remove``, scaled by ``weight``."""

    def __init__(self, pipe: Any, tensors: Mapping[str, torch.Tensor], family: str) -> None:
        """``tensors``: those of the adapter file. Raises UnmatchedLayer, and ValueError if shapes do not fit."""
        self.weight = 1.0
        self._handles: list[Any] = []
        denoiser: Any = denoiser_of(pipe)
        device, dtype = pipe._execution_device, denoiser.dtype
        on_device = sum(each.nbytes for each in tensors.values()) <= MOST_KEPT_BYTES
        planned = list(match_layers(pipe, tensors, family))
        for module, parts, rows in planned:
            check_shapes(module, parts, rows)
        for module, parts, rows in planned:
            here = {
                name: each.to(device if on_device else "cpu", dtype) for name, each in parts.items() if name != "alpha"
            }
            if "alpha" in parts:
                here["alpha"] = parts["alpha"].float()  # on the CPU, because Python reads it
            self._handles.append(module.register_forward_hook(self._hook(here, rows, on_device)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, parts: dict[str, torch.Tensor], rows: slice | None, on_device: bool) -> Any:
        """A forward hook that adds the change. ``on_device``: keep the tensors on the device."""

        def add(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if not self.weight:
                return output
            inside = inputs[0]
            here = {
                name: each if name == "alpha" else each.to(inside.device, inside.dtype) for name, each in parts.items()
            }
            if on_device:
                parts.update(here)
            weight = weight_of(module) if "dora" in parts or MULTIPLYING & set(parts) else None
            return output + self.weight * output_delta(module, here, rows, weight, inside)

        return add


def match_layers(
    pipe: Any, tensors: Mapping[str, torch.Tensor], family: str
) -> Iterator[tuple[torch.nn.Module, dict[str, torch.Tensor], slice | None]]:
    """(layer, its tensors, the rows that apply to it or None for all) for each layer that the adapter changes.

    Raises UnmatchedLayer.
    """
    stems: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        stem, end = lora_layers.split_name(name)
        if end:
            stems[stem][end] = tensor
        if end == "on_input" and f"{stem}.weight" in tensors:
            stems[stem]["factors"] = tensors[f"{stem}.weight"]
    places: dict[str, tuple[dict[str, torch.nn.Module], Layers]] = {}
    for stem, parts in stems.items():
        _, where, bare = lora_layers.locate(stem)
        if where not in places:
            part = getattr(pipe, ENCODER_PARTS[where], None) if where else denoiser_of(pipe)
            modules = {} if part is None else adaptable_layers(part)
            per_level = getattr(getattr(part, "config", None), "layers_per_block", 2)
            places[where] = modules, Layers(modules, "" if where else family, per_level)
        modules, layers = places[where]
        targets = layers.with_name(bare)
        if not targets:
            if set(parts) == {"alpha"} or (where and bare.endswith("text_projection")):
                continue  # no change, or one to a layer that pipelines do not use
            raise UnmatchedLayer(stem)
        first = 0
        for target in targets:
            module = modules[target]
            rows = None if len(targets) == 1 else slice(first, first + out_features(module))
            first += out_features(module)
            yield module, parts, rows


def adaptable_layers(part: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Linear and Conv2d layers, and norms with weights, by name, without peft's wrappers."""
    layers = {}
    for name, module in part.named_modules():
        inside = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        outer = ".lora_" not in name and not name.endswith(".base_layer")
        norm = isinstance(inside, NORMS) and inside.weight is not None
        if outer and (norm or isinstance(inside, torch.nn.Conv2d) or hasattr(inside, "in_features")):
            layers[name] = inside
    return layers


def out_features(module: Any) -> int:
    if isinstance(module, NORMS):
        return int(module.weight.shape[0])
    return int(module.out_channels if isinstance(module, torch.nn.Conv2d) else module.out_features)


def check_shapes(module: torch.nn.Module, parts: Mapping[str, torch.Tensor], rows: slice | None) -> None:
    """Raises ValueError if the tensors do not fit the layer."""
    try:
        with torch.device("meta"):
            shaped = {name: torch.empty(each.shape) for name, each in parts.items() if name != "alpha"}
            if lora_layers.NORM_ROLES & set(shaped):
                size = module.weight.shape if isinstance(module, NORMS) else None
                if any(each.shape != size for each in shaped.values()):
                    raise ValueError("size mismatch")
            elif MULTIPLYING & set(shaped):
                columns = torch.empty(1, int(getattr(module, "in_features", 0)))
                own = torch.empty(out_features(module), *weight_shape(module, columns))
                multiplied(own, shaped, rows)
            elif not set(shaped) <= {"diff_b", "bias"}:
                change = weight_delta(shaped)
                change = change if rows is None else change[rows]
                numbers = torch.Size(weight_shape(module, change)).numel()
                if change.shape[0] != out_features(module) or change[0].numel() != numbers:
                    raise ValueError("size mismatch")
                reads = getattr(module, "in_features", None)
                if reads is not None and change[0].numel() != reads:
                    raise ValueError("size mismatch")
    except (KeyError, RuntimeError) as error:
        raise ValueError("shape") from error


def weight_of(module: Any) -> torch.Tensor:
    """The layer's weight, dequantised or fetched from main memory if needed.

    Raises ValueError for other kinds of quantised weights.
    """
    weight = module.weight
    if isinstance(module, QuantisedLinear) and not weight.is_meta:
        return module.dequantised(weight, module.scale)
    if weight.is_meta:
        weight = module._hf_hook.weights_map["weight"]
    if not weight.is_floating_point():
        raise ValueError("a quantised weight")
    found: torch.Tensor = weight
    return found


def output_delta(
    module: torch.nn.Module, parts: Parts, rows: slice | None, weight: torch.Tensor | None, inputs: torch.Tensor
) -> torch.Tensor:
    """The adapter's addition to a layer's output. ``module``: linear or Conv2d; ``inputs``: its input.

    ``rows``: this layer's rows in an adapter that treats several layers as one; None for all. ``weight``: the layer's
    own, needed for DoRA only.
    """
    if parts.keys() <= lora_layers.NORM_ROLES:
        return norm_delta(module, parts, inputs)
    if MULTIPLYING & set(parts) and weight is not None:
        own = weight.to(inputs.device, torch.float32)
        exact = {name: part.float() for name, part in parts.items()}
        delta = run_layer(module, inputs, multiplied(own, exact, rows).to(inputs.dtype))
        own_bias = getattr(module, "bias", None)
        if "ia3" in parts and own_bias is not None and (factors := ia3_factors(own.flatten(1), exact, rows)).ndim > 1:
            parts = {"diff_b": (own_bias.to(inputs.device) * factors[:, 0]).to(inputs.dtype)}  # peft scales outputs
            rows = None
    elif "dora" in parts and weight is not None:
        own = weight.to(inputs.device, torch.float32)
        change = rows_of_delta({name: part.float() for name, part in parts.items()}, rows).reshape(own.shape)
        magnitude = parts["dora"].float()
        magnitude = magnitude if rows is None or magnitude.shape[0] == 1 else magnitude[rows]
        delta = run_layer(module, inputs, dora_delta(own, own + change, magnitude).to(inputs.dtype))
    elif is_plain_lora(parts):
        between = run_layer(module, inputs, parts["down"])
        up = parts["up"] if rows is None else parts["up"][rows]
        if isinstance(module, torch.nn.Conv2d):
            delta = conv2d(between, up if up.ndim == 4 else up[:, :, None, None])
        else:
            delta = linear(between, up.flatten(1))
        delta = delta * alpha_scale(parts, parts["down"].shape[0])
    elif not {"diff", "up", "hada_w1_a", "lokr_w1", "lokr_w1_a"} & set(parts):
        delta = inputs.new_zeros(())
    else:
        change = rows_of_delta(parts, rows)
        delta = run_layer(module, inputs, change.reshape(change.shape[0], *weight_shape(module, change)))
    bias = parts.get("diff_b", parts.get("bias"))
    if bias is not None:
        bias = bias.flatten() if rows is None else bias.flatten()[rows]
        delta = delta + (bias if not isinstance(module, torch.nn.Conv2d) else bias[:, None, None])
    return delta


def is_plain_lora(parts: Parts) -> bool:
    """Whether a change can be applied as two small layers, without computing the whole matrix."""
    return "down" in parts and "up" in parts and "mid" not in parts and parts["up"].ndim == parts["down"].ndim


def rows_of_delta(parts: Parts, rows: slice | None) -> torch.Tensor:
    return weight_delta(parts) if rows is None else weight_delta(parts)[rows]


def weight_shape(module: torch.nn.Module, change: torch.Tensor) -> tuple[int, ...]:
    """Shape of a layer's weight without its first axis."""
    if isinstance(module, torch.nn.Conv2d):
        return (module.in_channels // module.groups, *module.kernel_size)
    return (change.shape[1:].numel(),)


def norm_delta(module: torch.nn.Module, parts: Parts, inputs: torch.Tensor) -> torch.Tensor:
    """The addition to a norm's output by changes of its weight and bias. Raises ValueError for other layers."""
    weight, bias = parts.get("w_norm"), parts.get("b_norm")
    if weight is None:
        weight = torch.zeros_like(bias) if bias is not None else None
    if isinstance(module, torch.nn.LayerNorm):
        return layer_norm(inputs, module.normalized_shape, weight, bias, module.eps)
    if isinstance(module, torch.nn.GroupNorm):
        return group_norm(inputs, module.num_groups, weight, bias, module.eps)
    raise ValueError("not a norm")


def run_layer(module: torch.nn.Module, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Run the layer with another weight and no bias."""
    if isinstance(module, torch.nn.Conv2d):
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        return conv2d(inputs, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return linear(inputs, weight.flatten(1))
