"""What an adapter adds to the weight of a layer, by the published formulas of LoRA, LoCon, LoHa, LoKr, DoRA and full
differences.

``parts`` are the tensors of one layer under the names that ``models.lora_layers.split_name`` gives them.
"""

from collections.abc import Mapping

import torch
from torch.nn.functional import conv2d, linear

Parts = Mapping[str, torch.Tensor]


def weight_delta(parts: Parts) -> torch.Tensor:
    """The whole difference, rows x columns or rows x channels x height x width. Raises KeyError where a part lacks."""
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
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def loha(parts: Parts) -> torch.Tensor:
    def half(number: int) -> torch.Tensor:
        first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
        if f"hada_t{number}" in parts:
            return torch.einsum("ijkl,jr,ip->prkl", parts[f"hada_t{number}"], second, first)
        return first @ second

    return half(1) * half(2) * alpha_scale(parts, parts["hada_w1_b"].shape[0])


def lokr(parts: Parts) -> torch.Tensor:
    """The Kronecker product of a small and a large matrix, each of which may be a product itself."""
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
    """DoRA: ``changed`` with the norms of its rows, or of its columns, as ``magnitude`` says, less ``weight``."""
    by_row = magnitude.shape[0] == weight.shape[0] and magnitude.numel() == weight.shape[0]
    axes = tuple(axis for axis in range(weight.ndim) if axis != (0 if by_row else 1))
    norm = torch.linalg.vector_norm(changed, dim=axes, keepdim=True) + torch.finfo(changed.dtype).eps
    return changed * (magnitude.reshape(norm.shape) / norm) - weight


def output_delta(
    module: torch.nn.Module, parts: Parts, rows: slice | None, weight: torch.Tensor | None, given: torch.Tensor
) -> torch.Tensor:
    """What the adapter adds to the output of a linear layer or convolution for an input.

    ``rows`` are those of the adapter that belong to this layer where it changes several as one. ``weight`` is the
    layer's own, which DoRA alone asks for.
    """
    if "dora" in parts and weight is not None:
        own = weight.to(given.device, torch.float32)
        change = rows_of_delta({name: part.float() for name, part in parts.items()}, rows).reshape(own.shape)
        magnitude = parts["dora"].float()
        magnitude = magnitude if rows is None or magnitude.shape[0] == 1 else magnitude[rows]
        found = run_layer(module, given, dora_delta(own, own + change, magnitude).to(given.dtype))
    elif is_plain_lora(parts):
        between = run_layer(module, given, parts["down"])
        up = parts["up"] if rows is None else parts["up"][rows]
        if isinstance(module, torch.nn.Conv2d):
            found = conv2d(between, up if up.ndim == 4 else up[:, :, None, None])
        else:
            found = linear(between, up.flatten(1))
        found = found * alpha_scale(parts, parts["down"].shape[0])
    elif not {"diff", "up", "hada_w1_a", "lokr_w1", "lokr_w1_a"} & set(parts):
        found = given.new_zeros(())
    else:
        change = rows_of_delta(parts, rows)
        found = run_layer(module, given, change.reshape(change.shape[0], *weight_shape(module, change)))
    bias = parts.get("diff_b", parts.get("bias"))
    if bias is not None:
        bias = bias.flatten() if rows is None else bias.flatten()[rows]
        found = found + (bias if not isinstance(module, torch.nn.Conv2d) else bias[:, None, None])
    return found


def is_plain_lora(parts: Parts) -> bool:
    return "down" in parts and "up" in parts and "mid" not in parts and parts["up"].ndim == parts["down"].ndim


def rows_of_delta(parts: Parts, rows: slice | None) -> torch.Tensor:
    return weight_delta(parts) if rows is None else weight_delta(parts)[rows]


def weight_shape(module: torch.nn.Module, change: torch.Tensor) -> tuple[int, ...]:
    """The shape of a layer's weight behind its rows."""
    if isinstance(module, torch.nn.Conv2d):
        return (module.in_channels // module.groups, *module.kernel_size)
    return (change.shape[1:].numel(),)


def run_layer(module: torch.nn.Module, given: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer with another weight and without a bias."""
    if isinstance(module, torch.nn.Conv2d):
        weight = weight if weight.ndim == 4 else weight[:, :, None, None]
        return conv2d(given, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return linear(given, weight.flatten(1))
