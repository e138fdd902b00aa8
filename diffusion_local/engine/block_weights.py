"""The repeated blocks of a model part, and their weights in main memory.

Each block's weights are gathered in one pinned buffer (torch's pinned allocator would round it up to a power of two),
or stay where they were loaded if main memory is short.

Imports no other module of the program but ``kept_blocks``, because ``scripts/bench_precision.py`` loads these files
alone.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from diffusion_local.engine.kept_blocks import LEAST_SHARE

log = logging.getLogger(__name__)

#: Alignment in bytes of the weights in a buffer.
COPY_ALIGNMENT = 256
#: Substrings of the names of weights that adapters add to a block. These weights stay on the device.
ADAPTER_WEIGHT_MARKS = ("lora_", "processor.")
#: Submodules of a denoiser that adapters add.
ADDED_PARTS = ("encoder_hid_proj",)

#: Weights by block, until the block is deleted or ``forget`` is called.
_waiting: "weakref.WeakKeyDictionary[torch.nn.Module, Waiting]" = weakref.WeakKeyDictionary()


class Waiting:
    """The weights of one block in main memory.

    ``host``: their tensors there, views of ``buffer`` if they were gathered; ``pinned``: whether that is pinned.
    """

    def __init__(self, weights: list[torch.nn.Parameter], gather: bool, pin: bool) -> None:
        """``gather``: copy the weights to one buffer; ``pin``: try to pin it. Raises nothing if pinning fails."""
        self.weights = weights
        self.host = [data_of(each) for each in weights]
        self.places: list[tuple[int, int]] = []
        self.size = 0
        for each in self.host:
            self.places.append((self.size, each.nbytes))
            self.size += -(-each.nbytes // COPY_ALIGNMENT) * COPY_ALIGNMENT
        self.buffer: torch.Tensor | None = None
        self.pinned = False
        if gather:
            buffer = torch.empty(self.size, dtype=torch.uint8)
            views = self.views(buffer)
            for view, each in zip(views, self.host, strict=True):
                view.copy_(each)
            self.buffer, self.host = buffer, views
            self.put(views)
            self.pinned = pin and pinned(self, buffer)
        else:
            self.host = [each.cpu() for each in self.host]
            self.put(self.host)

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Views of the weights in a buffer of ``size`` bytes."""
        return [
            buffer[start : start + length].view(each.dtype).view(each.shape)
            for each, (start, length) in zip(self.host, self.places, strict=True)
        ]

    def put(self, tensors: Sequence[torch.Tensor]) -> None:
        """Make the block's parameters use these tensors."""
        with torch._C.DisableTorchFunctionSubclass():  # GGUF weights are a tensor subclass
            for each, tensor in zip(self.weights, tensors, strict=True):
                each.data = tensor

    def is_of(self, weights: Sequence[torch.nn.Parameter]) -> bool:
        """Whether these are the same weights, still in this memory."""
        return len(weights) == len(self.weights) and all(
            one is other and data_of(one).data_ptr() == host.data_ptr() and one.dtype == host.dtype
            for one, other, host in zip(weights, self.weights, self.host, strict=True)
        )

    def copy_to(self, buffer: torch.Tensor) -> None:
        """Copy the weights to a buffer on the device, in the current stream."""
        if self.buffer is not None:
            buffer[: self.size].copy_(self.buffer, non_blocking=True)
            return
        for view, each in zip(self.views(buffer), self.host, strict=True):
            view.copy_(each, non_blocking=True)


def waiting_of(
    block: torch.nn.Module, weights: list[torch.nn.Parameter], may_gather: Callable[[int], bool], pin: bool
) -> Waiting:
    """The weights of a block in main memory; the existing ones if they have not changed since.

    ``may_gather``: whether a buffer of this many bytes of main memory may be allocated.
    """
    known = _waiting.get(block)
    if known is None or not known.is_of(weights):
        gather = may_gather(sum(each.nbytes for each in weights))
        known = _waiting[block] = Waiting(weights, gather, pin)
    return known


def forget(module: torch.nn.Module) -> None:
    """Forget the buffers of a module's blocks. Weights that still use one keep it alive, but it is no longer pinned."""
    for each in module.modules():
        _waiting.pop(each, None)


def pinned(owner: object, buffer: torch.Tensor) -> bool:
    """Pin a buffer until its owner is deleted. Returns whether that succeeded."""
    cuda: Any = torch.cuda.cudart()
    address = buffer.data_ptr()
    problem = int(cuda.cudaHostRegister(address, buffer.nbytes, 0))
    if problem:
        log.warning("main memory cannot be pinned (error %d): blocks are copied from pageable memory", problem)
        with suppress(RuntimeError):  # clears the error, which the next kernel would report otherwise
            torch.zeros(1, device="cuda")
        return False
    weakref.finalize(owner, cuda.cudaHostUnregister, address).atexit = False
    return True


# -- blocks ------------------------------------------------------------------------------------------------------------


def blocks_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated blocks of a denoiser or text encoder, in the order of their calls as far as it can be inferred.

    Leaves out small blocks, and those that share weights with another.
    """
    least = sum(each.numel() for each in module.parameters()) * LEAST_SHARE
    candidates = [
        each for each in listed(module) if sum(weight.numel() for weight in own_weights(each)) >= max(least, 1)
    ]
    seen: dict[int, int] = {}
    for block in candidates:
        for each in own_weights(block):
            seen[id(each)] = seen.get(id(each), 0) + 1
    return [block for block in candidates if all(seen[id(each)] == 1 for each in own_weights(block))]


def listed(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Entries of the outermost module lists; for a UNet's levels, the entries of the lists inside."""
    children = dict(module.named_children())
    if "resnets" in children:  # a level, or the middle, of a UNet
        inner: dict[str, Any] = {name: children.pop(name, None) or () for name in ("resnets", "attentions")}
        resnets, attentions = list(inner["resnets"]), list(inner["attentions"])
        for place, resnet in enumerate(resnets):
            yield resnet
            if place < len(attentions) and attentions[place] is not None:
                yield from listed(attentions[place])
    last = [name for name in ("mid_block", "up_blocks") if name in children]  # not registered in call order
    for name in [*(name for name in children if name not in last), *last]:
        child = children[name]
        if name in ADDED_PARTS:
            continue
        if not isinstance(child, torch.nn.ModuleList):
            yield from listed(child)
            continue
        for entry in child:
            if any(hasattr(entry, name) for name in ("resnets", "transformer_blocks")):
                yield from listed(entry)
            elif entry is not None:
                yield entry


def own_weights(block: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights of a block, without those added by adapters."""
    return [each for name, each in block.named_parameters() if not any(word in name for word in ADAPTER_WEIGHT_MARKS)]


def data_of(weight: torch.nn.Parameter) -> torch.Tensor:
    """The plain tensor of a parameter."""
    with torch._C.DisableTorchFunctionSubclass():
        return weight.data
