"""Adapters that diffusers does not load, added to the outputs of a model's layers by forward hooks.

Weights stay unchanged, so an adapter can be removed without a trace, its strength can differ per picture, and weights
may be quantised or offloaded to main memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.functional import conv2d, linear

from diffusion_local.engine.adapter_names import Layers
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.quantised import QuantisedLinear
from diffusion_local.models import lora_layers

#: Adapters larger than this (bytes) stay in main memory; each layer's tensors are copied to the device at its call.
MOST_KEPT_BYTES = 1 << 30
#: Text encoder attributes of a pipeline by the names that ``lora_layers.locate`` returns.
ENCODER_PARTS = {"te": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}


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
        targets = layers.named(bare)
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
    """Linear and Conv2d layers by name, without peft's wrappers."""
    layers = {}
    for name, module in part.named_modules():
        inside = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        outer = ".lora_" not in name and not name.endswith(".base_layer")
        if outer and (isinstance(inside, torch.nn.Conv2d) or hasattr(inside, "in_features")):
            layers[name] = inside
    return layers


def out_features(module: Any) -> int:
    return int(module.out_channels if isinstance(module, torch.nn.Conv2d) else module.out_features)


def check_shapes(module: torch.nn.Module, parts: Mapping[str, torch.Tensor], rows: slice | None) -> None:
    """Raises ValueError if the tensors do not fit the layer."""
    try:
        with torch.device("meta"):
            shaped = {name: torch.empty(each.shape) for name, each in parts.items() if name != "alpha"}
            if MULTIPLYING & set(shaped):
                columns = torch.empty(1, int(getattr(module, "in_features", 0)))
                own = torch.empty(out_features(module), *weight_shape(module, columns))
                multiplied(own, shaped, rows)
            elif not set(shaped) <= {"diff_b", "bias"}:
                change = weight_delta(shaped)
                change = change if rows is None else change[rows]
                size = torch.Size(weight_shape(module, change)).numel()
                if change.shape[0] != out_features(module) or change[0].numel() != size:
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


# -- weight deltas, by the published formulas of each method ----------------------------------------------------------

#: Tensors of one layer, named as ``models.lora_layers.split_name`` returns them.
Parts = Mapping[str, torch.Tensor]


def weight_delta(parts: Parts) -> torch.Tensor:
    """The change of the whole weight: rows x columns, or rows x channels x height x width.

    Raises KeyError if a tensor is missing.
    """
    if "diff" in parts:
        return parts["diff"]
    if any(name.startswith("hada_") for name in parts):
        return loha(parts)
    if any(name.startswith("lokr_") for name in parts):
        return lokr(parts)
    up, down = parts["up"], parts["down"]
    scale = alpha_scale(parts, down.shape[0])
    if "mid" in parts:
        return torch.einsum("op,pqkl,qi->oikl", up.flatten(1), parts["mid"], down.flatten(1)) * scale
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]) * scale


def alpha_scale(parts: Parts, rank: int) -> float:
    """The factor alpha / rank of a change; 1.0 without alpha."""
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def loha(parts: Parts) -> torch.Tensor:
    """LoHa: the elementwise product of two low-rank matrices or convolution kernels."""

    def half(number: int) -> torch.Tensor:
        first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
        if f"hada_t{number}" in parts:
            return torch.einsum("ijkl,jr,ip->prkl", parts[f"hada_t{number}"], second, first)
        return first @ second

    return half(1) * half(2) * alpha_scale(parts, parts["hada_w1_b"].shape[0])


def lokr(parts: Parts) -> torch.Tensor:
    """Kronecker product of a small and a large matrix, each given whole or as two factors."""
    rank = 0

    def factor(number: int) -> torch.Tensor:
        nonlocal rank
        if f"lokr_w{number}" in parts:
            return parts[f"lokr_w{number}"]
        first, second = parts[f"lokr_w{number}_a"], parts[f"lokr_w{number}_b"]
        rank = second.shape[0]
        if number == 2 and "lokr_t2" in parts:
            return torch.einsum("ijkl,ip,jr->prkl", parts["lokr_t2"], first, second)
        return first @ second

    small, large = factor(1), factor(2)
    while small.ndim < large.ndim:
        small = small[..., None]
    return torch.kron(small, large) * (alpha_scale(parts, rank) if rank else 1.0)


def dora_delta(weight: torch.Tensor, changed: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """DoRA's change of ``weight``: ``changed``, with rows or columns rescaled to the norms in ``magnitude``, minus
    ``weight``.
    """
    by_row = magnitude.shape[0] == weight.shape[0] and magnitude.numel() == weight.shape[0]
    axes = tuple(axis for axis in range(weight.ndim) if axis != (0 if by_row else 1))
    norm = torch.linalg.vector_norm(changed, dim=axes, keepdim=True) + torch.finfo(changed.dtype).eps
    return changed * (magnitude.reshape(norm.shape) / norm) - weight


#: Tensors of adapters that multiply a weight instead of adding to it.
MULTIPLYING = {"oft", "oft_r", "ia3", "on_input"}
#: Terms of the series by which peft computes rotations.
NEUMANN_TERMS = 5


def multiplied(weight: torch.Tensor, parts: Parts, rows: slice | None = None) -> torch.Tensor:
    """The change of ``weight`` by OFT, BOFT or IA3. ``rows``: as in ``output_delta``; those of OFT cannot be separated.

    Raises ValueError or RuntimeError if shapes do not fit.
    """
    flat = weight.flatten(1)
    if "oft" in parts:
        if rows is not None:
            raise ValueError("rows of several layers")
        new = rotated_rows(flat, parts["oft"], limit=float(parts["alpha"]) * len(flat) if "alpha" in parts else 0.0)
        new = new * parts["rescale"].reshape(-1, 1) if "rescale" in parts else new
    elif "oft_r" in parts:
        turns = neumann(parts["oft_r"])
        grouped = flat.unflatten(1, (-1, turns.shape[-1]))
        new = torch.einsum("rkd,kcd->rkc", grouped, turns.expand(grouped.shape[1], -1, -1)).flatten(1)
    else:
        new = flat * (1 + ia3_factors(flat, parts, rows))
    return (new - flat).view(weight.shape)


def rotated_rows(flat: torch.Tensor, blocks: torch.Tensor, limit: float) -> torch.Tensor:
    """Rotate groups of rows, as kohya and LyCORIS do; the norm of all generators is limited unless ``limit`` is 0.

    ``blocks``: generators, groups x size x size (OFT), or layers x groups x size x size of a butterfly (BOFT).
    """
    turned = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        turned = turned * (limit / (turned.norm() + 1e-8)).clamp(max=1)
    one = torch.eye(blocks.shape[-1], device=blocks.device)
    turns = (one + turned) @ torch.linalg.inv(one - turned)
    if turns.ndim == 3:
        grouped = flat.view(*turns.shape[:2], -1)
        return torch.einsum("knm,knc->kmc", turns, grouped).reshape(flat.shape)
    for level, turn in enumerate(turns):
        width = 2**level * (turn.shape[-1] // 2)
        flat = flat.unflatten(0, (-1, 2, width)).transpose(1, 2).flatten(0, 2).unflatten(0, turn.shape[:2])
        flat = torch.einsum("bij,bjc->bic", turn, flat).flatten(0, 1)
        flat = flat.unflatten(0, (-1, width, 2)).transpose(1, 2).flatten(0, 2)
    return flat


def neumann(upper: torch.Tensor) -> torch.Tensor:
    """peft's rotations, groups x size x size, from the upper triangles of their generators, groups x elements."""
    size = round((1 + (1 + 8 * upper.shape[1]) ** 0.5) / 2)
    places = torch.triu_indices(size, size, 1, device=upper.device)
    generator = upper.new_zeros(len(upper), size, size)
    generator[:, places[0], places[1]] = upper
    generator = generator - generator.transpose(1, 2)
    power, series = generator, torch.eye(size, device=upper.device) + 2 * generator
    for term in range(2, NEUMANN_TERMS):
        power = power @ generator
        series = series + power * (1 if term == NEUMANN_TERMS - 1 else 2)
    return series


def ia3_factors(flat: torch.Tensor, parts: Parts, rows: slice | None) -> torch.Tensor:
    """By how much IA3 changes each row or column, relative to it. Raises ValueError."""
    values = parts["ia3"] - 1 if "ia3" in parts else parts["factors"]
    by_column = values.shape[0] == 1 if values.ndim > 1 else values.numel() == flat.shape[1]
    factors = values.flatten()
    if not by_column and rows is not None:
        factors = factors[rows]
    if factors.numel() != flat.shape[1 if by_column else 0]:
        raise ValueError("size mismatch")
    return factors if by_column else factors[:, None]


def output_delta(
    module: torch.nn.Module, parts: Parts, rows: slice | None, weight: torch.Tensor | None, inputs: torch.Tensor
) -> torch.Tensor:
    """The adapter's addition to a layer's output. ``module``: linear or Conv2d; ``inputs``: its input.

    ``rows``: this layer's rows in an adapter that treats several layers as one; None for all. ``weight``: the layer's
    own, needed for DoRA only.
    """
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


def run_layer(module: torch.nn.Module, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Run the layer with another weight and no bias."""
    if isinstance(module, torch.nn.Conv2d):
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        return conv2d(inputs, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return linear(inputs, weight.flatten(1))
