"""The operations that fused layers are built from, and a plain-torch implementation of each.

Activations are rows: N x P x C, contiguous, where P counts pixels or tokens. All sums are accumulated in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

#: The 8-bit dtype, its largest number, and the smallest scale of a row.
EIGHT_BITS, LARGEST, SMALLEST = torch.float8_e4m3fn, 448.0, 1e-6 / 448


@dataclass(frozen=True, slots=True)
class Quantised:
    """Rows of 8-bit numbers (any shape ending in C), with one scale per row (rows x 1, fp32) to multiply by. ``dtype``:
    the dtype before quantisation.
    """

    values: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype


class Operations(Protocol):
    """Implemented by ``TorchOperations`` and, in Triton, by ``kernels.TritonOperations``."""

    #: Whether to use 8-bit numbers in large products.
    eight_bits: bool

    def group_norm(
        self, x: torch.Tensor, norm: torch.nn.GroupNorm, silu: bool, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Group normalisation of ``x + shift``, then SiLU if ``silu``; ``shift``: N x C, with rows of any stride."""
        ...

    def add(self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x + y + bias``; ``bias``: C."""
        ...

    def add_layer_norm(
        self, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm, quantised: bool = False
    ) -> tuple[torch.Tensor, Any]:
        """``x + y`` (``x`` itself where ``y`` is None), and its layer normalisation, Quantised if ``quantised``."""
        ...

    def geglu(self, x: torch.Tensor, quantised: bool = False) -> Any:
        """N x P x 2C to N x P x C: the first half times GELU of the second; Quantised if ``quantised``."""
        ...

    def quantise(self, x: torch.Tensor) -> Quantised:
        """Divide each row by the scale that maps its largest number to the largest 8-bit number."""
        ...

    def linear(self, x: Quantised, weight: Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        """``x @ weight.T + bias`` in ``x.dtype``; a scale of ``weight`` applies per output channel."""
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled version of ``function``; compilation happens at the first call for each shape of its inputs."""
        ...


class TorchOperations:
    """Reference implementation: slow, for any device and dtype."""

    def __init__(self, eight_bits: bool = False) -> None:
        self.eight_bits = eight_bits

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def group_norm(
        self, x: torch.Tensor, norm: torch.nn.GroupNorm, silu: bool, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        wide = x.float() if shift is None else x.float() + shift.float()[:, None]
        normed = F.group_norm(wide.transpose(1, 2), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
        return (F.silu(normed) if silu else normed).transpose(1, 2).to(x.dtype).contiguous()

    def add(self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        total = x.float() + y.float()
        return (total if bias is None else total + bias.float()).to(x.dtype)

    def add_layer_norm(
        self, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm, quantised: bool = False
    ) -> tuple[torch.Tensor, Any]:
        total = x if y is None else self.add(x, y)
        weight, bias = norm.weight.float(), norm.bias.float()
        normed = F.layer_norm(total.float(), norm.normalized_shape, weight, bias, norm.eps)
        return total, quantise(normed, x.dtype) if quantised else normed.to(x.dtype)

    def geglu(self, x: torch.Tensor, quantised: bool = False) -> Any:
        value, gate = x.float().chunk(2, dim=-1)
        gated = value * F.gelu(gate)
        return quantise(gated, x.dtype) if quantised else gated.to(x.dtype).contiguous()

    def quantise(self, x: torch.Tensor) -> Quantised:
        return quantise(x, x.dtype)

    def linear(self, x: Quantised, weight: Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        lead, channels = x.values.shape[:-1], x.values.shape[-1]
        rows = x.values.reshape(-1, channels).float() * x.scales
        columns = weight.values.float() * weight.scales
        return F.linear(rows, columns, None if bias is None else bias.float()).to(x.dtype).view(*lead, -1)


def quantise(x: torch.Tensor, dtype: torch.dtype) -> Quantised:
    """Quantise each row to 8 bits; ``dtype`` is stored for the result of later products."""
    values, scales = quantise_rows(x.reshape(-1, x.shape[-1]))
    return Quantised(values.view(x.shape), scales, dtype)


def quantise_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row: (8-bit values, scales as rows x 1 in fp32)."""
    wide = rows.float()
    scales = (wide.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=SMALLEST)
    return (wide / scales).clamp(-LARGEST, LARGEST).to(EIGHT_BITS), scales


def available(device: torch.device, eight_bits: bool = False) -> tuple[Operations | None, str]:
    """(Triton operations for a device, ""), or (None, the reason). Requested ``eight_bits`` are used if supported."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None, "fused kernels are for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return None, f"fused kernels need compute capability 8.0 or later (this GPU has {major}.{minor})"
    return _imported(eight_bits and (major, minor) >= (8, 9))


def _imported(eight_bits: bool) -> tuple[Operations | None, str]:
    try:
        from diffusion_local.engine.fused import kernels
    except ImportError as error:
        return None, f"Triton cannot be imported ({error})"
    operations: Any = kernels.TritonOperations(eight_bits)
    return operations, ""
