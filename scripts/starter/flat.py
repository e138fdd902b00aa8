"""Mixed precision with flat buffers: float32 master weights, their average, and bfloat16 working copies.

All parameters live one after the other in one float32 buffer; the networks compute with bfloat16 views of a second
buffer of the same order (Micikevicius et al. 2018, arXiv:1710.03740). Clipping, AdamW (Loshchilov and Hutter 2019,
arXiv:1711.05101), the exponential moving average and the all-reduce of data-parallel training are then a handful of
large operations instead of one small one for each of some five hundred tensors.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

_ALIGN = 64  # elements; keeps every view on a 128-byte boundary, which fast kernels need


class FlatWeights:
    """Owns the parameters of several modules; the modules keep views."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        named = [(f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()]
        # Matrices and kernels first: weight decay applies to the first part of the buffer only.
        self.named = sorted(named, key=lambda item: item[1].ndim <= 1)
        device = self.named[0][1].device
        self.slots: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = []
        offset = boundary = 0
        for _, parameter in self.named:
            # Convolution kernels keep the channels-last order that the tensor cores want.
            shape = tuple(parameter.shape)
            layout = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            stride = torch.empty(shape, device="meta").to(memory_format=layout).stride()
            self.slots.append((offset, parameter.numel(), shape, stride))
            offset += -(-parameter.numel() // _ALIGN) * _ALIGN
            if parameter.ndim > 1:
                boundary = offset
        self.master = torch.zeros(offset, device=device)
        self.gradient = torch.zeros(offset, device=device)
        for view, (_, parameter) in zip(self.views(self.master), self.named, strict=True):
            view.copy_(parameter.detach())
        self.average = self.master.clone()
        self.working = self.master.to(dtype)
        for view, (_, parameter) in zip(self.views(self.working), self.named, strict=True):
            parameter.data = view
        self.gradient_views = self.views(self.gradient)
        groups = []
        for part, decay in ((slice(0, boundary), weight_decay), (slice(boundary, offset), 0.0)):
            weight = nn.Parameter(self.master[part])
            weight.grad = self.gradient[part]
            groups.append({"params": [weight], "weight_decay": decay})
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=device.type == "cuda")

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """One view of ``flat`` for each parameter, in its shape and memory order."""
        return [flat.as_strided(shape, stride, offset) for offset, _, shape, stride in self.slots]

    def clear(self) -> None:
        for _, parameter in self.named:
            parameter.grad = None

    def collect(self) -> None:
        """Copy the parameters' gradients into the float32 buffer."""
        torch._foreach_copy_(self.gradient_views, [parameter.grad for _, parameter in self.named])

    @torch.no_grad()
    def step(self, learning_rate: float, decay: float, clip: float = 1.0) -> torch.Tensor:
        """All-reduce, clip to norm ``clip``, AdamW, moving average with ``decay``; returns the gradient's norm."""
        if dist.is_initialized():
            dist.all_reduce(self.gradient)
            self.gradient.div_(dist.get_world_size())
        norm = self.gradient.norm()
        self.gradient.mul_((clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.working.copy_(self.master)
        self.average.lerp_(self.master, 1 - decay)
        return norm

    @torch.no_grad()
    def synchronise(self) -> None:
        """Give every process the weights of process 0."""
        if dist.is_initialized():
            dist.broadcast(self.master, 0)
            dist.broadcast(self.average, 0)
        self.working.copy_(self.master)

    def state(self) -> dict[str, Any]:
        return {"master": self.master, "average": self.average, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        self.master.copy_(state["master"])
        self.average.copy_(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.working.copy_(self.master)

    def export(self, module: str, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
        """Averaged weights of one module, contiguous on the CPU."""
        host = self.average.to("cpu")
        return {
            name.removeprefix(module + "."): view.to(dtype).contiguous()
            for (name, _), view in zip(self.named, self.views(host), strict=True)
            if name.startswith(module + ".")
        }
