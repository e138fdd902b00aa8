"""The operations that fused layers are built from, and a plain-torch implementation of each.

Activations are rows: N x P x C, contiguous, where P counts pixels or tokens. All sums are accumulated in fp32.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F


class Operations(Protocol):
    """Implemented by ``TorchOperations`` and, in Triton, by ``kernels.TritonOperations``."""

    def group_norm(
        self, x: torch.Tensor, norm: torch.nn.GroupNorm, silu: bool, shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Group normalisation of ``x + shift``, then SiLU if asked; ``shift``: N x C, with rows of any stride."""
        ...

    def add(self, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x + y + bias``; ``bias``: C."""
        ...

    def add_layer_norm(
        self, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x + y`` (``x`` itself where ``y`` is None), and its layer normalisation."""
        ...

    def geglu(self, x: torch.Tensor) -> torch.Tensor:
        """N x P x 2C to N x P x C: the first half times GELU of the second."""
        ...


class TorchOperations:
    """The reference: slow, for any device and dtype."""

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
        self, x: torch.Tensor, y: torch.Tensor | None, norm: torch.nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = x if y is None else self.add(x, y)
        weight, bias = norm.weight.float(), norm.bias.float()
        return total, F.layer_norm(total.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)

    def geglu(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = x.float().chunk(2, dim=-1)
        return (value * F.gelu(gate)).to(x.dtype).contiguous()


def available(device: torch.device) -> tuple[Operations | None, str]:
    """Triton's operations for a device, or None and the reason why there are none."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None, "fused kernels are for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return None, f"fused kernels need compute capability 8.0 or later (this GPU has {major}.{minor})"
    return _imported()


def _imported() -> tuple[Operations | None, str]:
    try:
        from diffusion_local.engine.fused import kernels
    except ImportError as error:
        return None, f"Triton cannot be imported ({error})"
    operations: Any = kernels.TritonOperations()
    return operations, ""
