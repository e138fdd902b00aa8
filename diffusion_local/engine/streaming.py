"""Streams the repeated blocks of a model part from main memory, each while the blocks before it compute.

Some blocks stay on the device; the others share two slots there. Copies run on their own CUDA stream; the device
waits for them by events, and the launching thread never waits. Results equal those of a part that is entirely on the
device. On a CPU the same copies run synchronously.

Imports only two other modules of the program, because ``scripts/bench_precision.py`` loads these files alone.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.hooks import ModelHook
from accelerate.utils import send_to_device

from diffusion_local.engine.block_weights import Waiting, blocks_of, data_of, own_weights, waiting_of
from diffusion_local.engine.kept_blocks import DEVICE_SLOTS


@dataclass(eq=False)
class Slot:
    """Device memory for one block at a time.

    ``holds``: index of the block, or -1; ``ready``: event after its copy; ``freed``: event after the last use of the
    memory; ``busy``: whether the block is computing.
    """

    buffer: torch.Tensor
    freed: Any
    holds: int = -1
    ready: Any = None
    busy: bool = False


@dataclass(eq=False)
class UnblockedTensor:
    """A tensor outside a part's blocks: a parameter (``name`` is empty), or the buffer ``name`` of a module."""

    owner: Any
    name: str
    host: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.host = self.get()

    def get(self) -> torch.Tensor:
        return data_of(self.owner) if not self.name else self.owner._buffers[self.name]

    def put(self, tensor: torch.Tensor) -> None:
        if self.name:
            self.owner._buffers[self.name] = tensor
            return
        with torch._C.DisableTorchFunctionSubclass():
            self.owner.data = tensor


class Streamed(ModelHook):
    """A hook that streams the blocks of a model part.

    Attach it with accelerate's ``add_hook_to_module`` and detach it with ``remove_hook_from_module``, which returns the
    whole part to main memory.
    """

    def __init__(
        self,
        device: str | torch.device,
        choose: Callable[[list[int]], Collection[int]] = lambda sizes: (),
        stays: bool = True,
        may_gather: Callable[[int], bool] = lambda size: True,
        before: "Streamed | None" = None,
    ) -> None:
        """``choose``: maps the blocks' sizes in bytes, in call order, to the indices of the blocks kept on the device.

        ``stays``: whether tensors outside the blocks stay on the device; if not, each call moves them there and
        ``release`` moves them back. ``may_gather``: whether a buffer of this many bytes of main memory may be allocated
        for a block. ``before``: a part that is released when this one is called.
        """
        self.execution_device = torch.device(device)
        self.choose, self.stays, self._may_gather, self._before = choose, stays, may_gather, before
        self._copies: Any = None
        self._blocks: list[Waiting] = []
        self._after: list[int] = []
        self._slots: list[Slot] = []
        self._rest: list[UnblockedTensor] = []
        self._handles: list[Any] = []
        self._empty: list[list[torch.Tensor]] = []
        self._latest = -1
        self._largest = self._slot_count = 0
        self._here = False
        self.kept: frozenset[int] = frozenset()
        #: Bytes copied to slots so far.
        self.copied = 0

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        return len(self._blocks)

    @property
    def sizes(self) -> list[int]:
        return [each.size for each in self._blocks]

    @property
    def kept_bytes(self) -> int:
        return sum(self._blocks[place].size for place in self.kept)

    @property
    def moved_bytes(self) -> int:
        """Bytes of the streamed blocks."""
        return sum(self.sizes) - self.kept_bytes

    @property
    def slot_bytes(self) -> int:
        return sum(each.buffer.nbytes for each in self._slots)

    @property
    def bytes_here(self) -> int:
        """Bytes on the device that ``release`` frees: slots, and tensors outside the blocks unless they stay."""
        return self.slot_bytes + (0 if self.stays or not self._here else sum(each.host.nbytes for each in self._rest))

    @property
    def pageable(self) -> int:
        """Number of blocks streamed from memory that is not pinned; 0 where pinning does not matter."""
        if self.execution_device.type != "cuda":
            return 0
        return sum(not each.pinned for place, each in enumerate(self._blocks) if place not in self.kept)

    def suits(self, choose: Callable[[list[int]], Collection[int]]) -> bool:
        """Whether the number of kept blocks equals what ``choose`` would keep, or is slightly smaller."""
        needed, resident = len(choose(self.sizes)), len(self.kept)
        return resident <= needed <= resident * 1.1 + 1

    # -- attach and detach ---------------------------------------------------------------------------------------------

    def init_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        blocks = blocks_of(module)
        weights = [own_weights(each) for each in blocks]
        pin = self.execution_device.type == "cuda"
        self._blocks = [waiting_of(each, own, self._may_gather, pin) for each, own in zip(blocks, weights, strict=True)]
        self._rest = list(rest_of(module, {id(each) for own in weights for each in own}))
        self.kept = frozenset(self.choose(self.sizes))
        moving = [place for place in range(self.count) if place not in self.kept]
        self._after = list(range(self.count))
        for place, following in zip(moving, [*moving[1:], *moving[:1]], strict=True):
            self._after[place] = following
        self._largest = max((self._blocks[place].size for place in moving), default=0)
        self._slot_count = min(DEVICE_SLOTS, len(moving))
        if self.execution_device.type == "cuda" and moving:
            self._copies = torch.cuda.Stream(self.execution_device)
        empty = {each.dtype: torch.empty(0, dtype=each.dtype, device=self.execution_device) for own in weights
                 for each in map(data_of, own)}  # fmt: skip
        self._empty = [[empty[each.dtype] for each in block.host] for block in self._blocks]
        try:
            self._attach(blocks)
        except Exception:  # out of memory, as a rule
            self.detach_hook(module)
            raise
        return module

    def _attach(self, blocks: list[torch.nn.Module]) -> None:
        if self.stays:
            self._bring_rest()
        for place, (block, waiting) in enumerate(zip(blocks, self._blocks, strict=True)):
            if place in self.kept:
                waiting.put([each.to(self.execution_device, copy=True, non_blocking=True) for each in waiting.host])
                continue
            waiting.put(self._empty[place])
            self._handles.append(block.register_forward_pre_hook(self._bring(place), prepend=True))
            self._handles.append(block.register_forward_hook(self._leave(place), always_call=True))

    def detach_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        self._drop_slots()
        if self.execution_device.type == "cuda":
            torch.cuda.synchronize(self.execution_device)  # no copy reads main memory any more
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for waiting in self._blocks:
            waiting.put(waiting.host)
        self._return_rest()
        return module

    # -- calls ---------------------------------------------------------------------------------------------------------

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self._before is not None:
            self._before.release()
        self._bring_rest()
        if self.stays:
            return args, kwargs
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)

    def release(self) -> None:
        """Free the slots between two calls, and move tensors outside the blocks back unless they stay."""
        self._drop_slots()
        if not self.stays:
            self._return_rest()

    def _bring_rest(self) -> None:
        if not self._here:
            self._here = True
            for each in self._rest:
                each.put(each.host.to(self.execution_device, non_blocking=True))

    def _return_rest(self) -> None:
        for each in self._rest if self._here else ():
            each.put(each.host)
        self._here = False

    def _bring(self, place: int) -> Callable[..., None]:
        def bring(*_: Any) -> None:
            if self._latest >= 0:
                self._after[self._latest] = place  # learn the call order from the calls themselves
            self._latest = place
            slot = self._slot_of(place) or self._fetch(place, {place})
            assert slot is not None
            slot.busy = True
            if self._copies is not None:
                torch.cuda.current_stream(self.execution_device).wait_event(slot.ready)
            waiting = self._blocks[place]
            waiting.put(waiting.views(slot.buffer))
            self._fetch_following(place, self._slot_count - 1)

        return bring

    def _leave(self, place: int) -> Callable[..., None]:
        def leave(*_: Any) -> None:
            slot = self._slot_of(place)
            if slot is None:  # out of memory while fetching
                return
            self._blocks[place].put(self._empty[place])
            slot.busy = False
            if self._copies is not None:
                slot.freed = torch.cuda.current_stream(self.execution_device).record_event()
            self._fetch_following(place, self._slot_count)

        return leave

    def _fetch_following(self, place: int, number: int) -> None:
        following = []
        for _ in range(number):
            place = self._after[place]
            following.append(place)
        for each in following:
            if self._slot_of(each) is None and self._fetch(each, set(following)) is None:
                return

    def _fetch(self, place: int, upcoming: set[int]) -> Slot | None:
        """Start copying a block to an idle slot that holds none of ``upcoming``. Returns None if there is none."""
        if not self._slots:
            self._slots = [self._new_slot() for _ in range(self._slot_count)]
        slot = next((each for each in self._slots if not each.busy and each.holds not in upcoming), None)
        if slot is None:
            return None
        waiting = self._blocks[place]
        slot.holds = place
        self.copied += waiting.size
        if self._copies is None:
            waiting.copy_to(slot.buffer)
            return slot
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.freed)
            waiting.copy_to(slot.buffer)
            slot.ready = self._copies.record_event()
        return slot

    def _slot_of(self, place: int) -> Slot | None:
        return next((each for each in self._slots if each.holds == place), None)

    def _new_slot(self) -> Slot:
        buffer = torch.empty(self._largest, dtype=torch.uint8, device=self.execution_device)
        freed = None if self._copies is None else torch.cuda.current_stream(self.execution_device).record_event()
        return Slot(buffer, freed)

    def _drop_slots(self) -> None:
        if self._copies is not None and self._slots:
            torch.cuda.current_stream(self.execution_device).wait_stream(self._copies)
        self._slots, self._latest = [], -1


class Visiting(ModelHook):
    """A hook that copies a whole part to the device when it is called.

    Main memory keeps the weights, pinned where possible, so nothing is copied back. Attach and detach it like
    `Streamed`.
    """

    def __init__(
        self,
        device: str | torch.device,
        before: Callable[[], None],
        may_gather: Callable[[int], bool] = lambda size: True,
    ) -> None:
        """``before``: called before the part is copied, to free device memory; ``may_gather``: see `Streamed`."""
        self.execution_device = torch.device(device)
        self._before, self._may_gather = before, may_gather
        self._weights: Waiting | None = None
        self._buffers: list[UnblockedTensor] = []
        self._here = False

    def init_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        pin = self.execution_device.type == "cuda"
        self._weights = waiting_of(module, own_weights(module), self._may_gather, pin)
        self._buffers = list(rest_of(module, {id(each) for each in self._weights.weights}))
        return module

    def detach_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        if self.execution_device.type == "cuda":
            torch.cuda.synchronize(self.execution_device)  # no copy reads main memory any more
        self.release()
        return module

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._before()
        if not self._here:
            self._bring()
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)

    def _bring(self) -> None:
        assert self._weights is not None
        buffer = torch.empty(self._weights.size, dtype=torch.uint8, device=self.execution_device)
        self._here = True
        self._weights.copy_to(buffer)
        self._weights.put(self._weights.views(buffer))
        for each in self._buffers:
            each.put(each.host.to(self.execution_device, non_blocking=True))

    def release(self) -> None:
        """Free the part's memory on the device."""
        if self._here:
            assert self._weights is not None
            self._weights.put(self._weights.host)
            for each in self._buffers:
                each.put(each.host)
        self._here = False


def rest_of(module: torch.nn.Module, streamed: set[int]) -> Iterator[UnblockedTensor]:
    """Parameters outside the blocks, and all buffers. ``streamed``: ids of the blocks' parameters."""
    for each in module.parameters():
        if id(each) not in streamed:
            yield UnblockedTensor(each, "")
    for inner in module.modules():
        for name, tensor in inner._buffers.items():
            if tensor is not None:
                yield UnblockedTensor(inner, name)
