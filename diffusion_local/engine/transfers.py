"""Prepares a picture without synchronising with a CUDA device that still works on the previous one."""

from contextlib import ExitStack
from functools import wraps
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class PinnedCopies(TorchDispatchMode):
    """Inside, CPU tensors are copied to the device from pinned memory, in stream order.

    torch's own copies wait until the device has finished all queued work.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                dtype = kwargs.get("dtype")
                source = args[0] if dtype is None else args[0].to(dtype)
                return func(source.contiguous().pin_memory(), **kwargs | {"non_blocking": True})
        elif func is torch.ops.aten.copy_.default and args[0].is_cuda and args[1].device.type == "cpu":
            source = args[1].to(args[0].dtype).contiguous().pin_memory()
            return func(args[0], source, True)
        return func(*args, **kwargs)


class AsyncCopies:
    """A block in which copies to a CUDA device do not synchronise. ``end_at`` can end it earlier."""

    def __init__(self, device: torch.device) -> None:
        self._stack = ExitStack()
        self._cuda = device.type == "cuda"

    def __enter__(self) -> Self:
        if self._cuda:
            self._stack.enter_context(PinnedCopies())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def end_at(self, module: torch.nn.Module) -> None:
        """End the block at the module's first call: the dispatch overhead would slow its many operations."""
        if self._cuda:
            hook = module.register_forward_pre_hook(lambda *_: self._stack.close())
            self._stack.callback(hook.remove)


def avoid_synchronisation(scheduler: Any, device: torch.device) -> None:
    """Keep a scheduler from synchronising, both to find its first step and to move noise to the device."""
    if device.type != "cuda" or not hasattr(scheduler, "set_begin_index"):
        return
    set_timesteps, step = scheduler.set_timesteps, scheduler.step

    @wraps(set_timesteps)  # pipelines read the signature
    def beginning(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs | {"device": "cpu"})
        first = scheduler.timesteps[:2].tolist()
        set_timesteps(*args, **kwargs)
        if len(set(first)) == 2:  # of two equal ones a scheduler takes the second
            scheduler.set_begin_index(0)

    @wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        with PinnedCopies():
            return step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = beginning, stepping
