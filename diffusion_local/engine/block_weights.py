"""The repeated blocks of a part of a model, and their weights while they wait in main memory.

Weights wait in pinned memory, one buffer a block (torch's own pinned allocator would round each up to a power of two),
or where they were loaded to if memory cannot be pinned.

Imports no other module of the program but ``kept_blocks``: ``scripts/bench_precision.py`` loads a few files alone.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from diffusion_local.engine.kept_blocks import LEAST_SHARE

log = logging.getLogger(__name__)

#: Weights in a buffer begin at multiples of this many bytes.
ALIGNMENT = 256
#: Words in names of weights that adapters add to a block. They stay on the device.
ADDED = ("lora_", "processor.")
#: Children of a denoiser that adapters add.
ADDED_PARTS = ("encoder_hid_proj",)

#: The weights of blocks by block, for as long as the block exists or until ``forget``.
_waiting: "weakref.WeakKeyDictionary[torch.nn.Module, Waiting]" = weakref.WeakKeyDictionary()


class Waiting:
    """The weights of one block in main memory.

    ``host`` are their tensors there, in ``buffer`` if there is one, which is ``pinned`` or not.
    """

    def __init__(self, weights: list[torch.nn.Parameter], gather: bool, pin: bool) -> None:
        """``gather``: move them to one buffer; ``pin``: pin that. Raises nothing where it cannot be pinned."""
        self.weights = weights
        self.host = [data_of(each) for each in weights]
        self.places: list[tuple[int, int]] = []
        self.size = 0
        for each in self.host:
            self.places.append((self.size, each.nbytes))
            self.size += -(-each.nbytes // ALIGNMENT) * ALIGNMENT
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
        """The weights in a buffer of their bytes."""
        return [
            buffer[start : start + length].view(each.dtype).view(each.shape)
            for each, (start, length) in zip(self.host, self.places, strict=True)
        ]

    def put(self, tensors: Sequence[torch.Tensor]) -> None:
        """Let the block use these tensors."""
        with torch._C.DisableTorchFunctionSubclass():  # GGUF's weights have a type of their own
            for each, tensor in zip(self.weights, tensors, strict=True):
                each.data = tensor

    def is_of(self, weights: Sequence[torch.nn.Parameter]) -> bool:
        """Whether these weights lie here, unchanged since."""
        return len(weights) == len(self.weights) and all(
            one is other and data_of(one).data_ptr() == host.data_ptr() and one.dtype == host.dtype
            for one, other, host in zip(weights, self.weights, self.host, strict=True)
        )

    def copy_to(self, buffer: torch.Tensor) -> None:
        """Copy to a buffer on the device, in the order of its stream."""
        if self.buffer is not None:
            buffer[: self.size].copy_(self.buffer, non_blocking=True)
            return
        for view, each in zip(self.views(buffer), self.host, strict=True):
            view.copy_(each, non_blocking=True)


def waiting_of(
    block: torch.nn.Module, weights: list[torch.nn.Parameter], may_gather: Callable[[int], bool], pin: bool
) -> Waiting:
    """The weights of a block: those that are known if they have not changed since.

    ``may_gather`` is asked whether so many bytes of main memory may be taken for a buffer.
    """
    known = _waiting.get(block)
    if known is None or not known.is_of(weights):
        gather = may_gather(sum(each.nbytes for each in weights))
        known = _waiting[block] = Waiting(weights, gather, pin)
    return known


def forget(module: torch.nn.Module) -> None:
    """Give up the buffers in main memory; weights that still lie there stay, but are not pinned any more."""
    for each in module.modules():
        _waiting.pop(each, None)


def pinned(owner: object, buffer: torch.Tensor) -> bool:
    """Pin a buffer for as long as its owner exists. Whether that was possible."""
    cuda: Any = torch.cuda.cudart()
    address = buffer.data_ptr()
    problem = int(cuda.cudaHostRegister(address, buffer.nbytes, 0))
    if problem:
        log.warning("main memory cannot be pinned (error %d): blocks are copied from pageable memory", problem)
        with suppress(RuntimeError):  # which the next kernel would report as its own
            torch.zeros(1, device="cuda")
        return False
    weakref.finalize(owner, cuda.cudaHostUnregister, address).atexit = False
    return True


# -- blocks ------------------------------------------------------------------------------------------------------------


def blocks_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated blocks of a denoiser or a text encoder, in the order of their calls as far as that can be told."""
    least = sum(each.numel() for each in module.parameters()) * LEAST_SHARE
    found = [each for each in listed(module) if sum(weight.numel() for weight in own_weights(each)) >= max(least, 1)]
    seen: dict[int, int] = {}
    for block in found:
        for each in own_weights(block):
            seen[id(each)] = seen.get(id(each), 0) + 1
    return [block for block in found if all(seen[id(each)] == 1 for each in own_weights(block))]


def listed(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Entries of the outermost lists of modules; of a UNet's levels, their own entries."""
    children = dict(module.named_children())
    if "resnets" in children:  # a level, or the middle, of a UNet
        inner: dict[str, Any] = {name: children.pop(name, None) or () for name in ("resnets", "attentions")}
        resnets, attentions = list(inner["resnets"]), list(inner["attentions"])
        for place, resnet in enumerate(resnets):
            yield resnet
            if place < len(attentions) and attentions[place] is not None:
                yield from listed(attentions[place])
    last = [name for name in ("mid_block", "up_blocks") if name in children]  # are registered in another order
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
    """The weights of a block without those that adapters added."""
    return [each for name, each in block.named_parameters() if not any(word in name for word in ADDED)]


def data_of(weight: torch.nn.Parameter) -> torch.Tensor:
    """Its plain tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        return weight.data
