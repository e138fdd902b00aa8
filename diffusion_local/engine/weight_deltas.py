"""Changes of a layer's weight by an adapter's tensors, by the published formulas of each method."""

from collections.abc import Mapping

import torch

from diffusion_local.models.lora_layers import GLORA_ROLES

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
MULTIPLYING = {"oft", "oft_r", "ia3", "on_input", *GLORA_ROLES}
#: Terms of the series by which peft computes rotations.
NEUMANN_TERMS = 5


def multiplied(weight: torch.Tensor, parts: Parts, rows: slice | None = None) -> torch.Tensor:
    """The change of ``weight`` by OFT, BOFT, IA3 or GLoRA. ``rows``: as in ``output_delta``; those of OFT cannot be
    separated.

    Raises ValueError or RuntimeError if shapes do not fit.
    """
    flat = weight.flatten(1)
    if "b1.weight" in parts:
        return glora(weight, parts, rows)
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


def glora(weight: torch.Tensor, parts: Parts, rows: slice | None) -> torch.Tensor:
    """GLoRA: the weight with its columns (a convolution's channels) mixed by one low-rank matrix, plus another.

    The first versions of LyCORIS swapped the two factors of each.
    """
    a1, a2, b1, b2 = (parts[name].flatten(1) for name in GLORA_ROLES)
    columns = weight.shape[1]
    if (a1.shape[0], a2.shape[1]) != (columns, columns) or a1.shape[1] != a2.shape[0]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    rank = a2.shape[0]
    added = b1 @ b2 if rows is None else b1[rows] @ b2
    mixed = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    return (mixed + added.reshape(weight.shape)) * alpha_scale(parts, rank)


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
