"""Guidance in halves: a second GPU computes half of each step's batch (negative | prompt).

A picture in halves always calls its denoiser twice per step, each time with half of the batch. The calls are
independent and equal in shape, so each of them gives the same result on every GPU of a kind: the second GPU may come
and go between two steps, and may be missing when the picture is made again.
"""

import copy
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from diffusion_local.engine import Helper, Pass, faults
from diffusion_local.engine.devices import Device
from diffusion_local.engine.fused.denoiser import FusedDenoiser
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.graphs import Graphs, Recorder, denoiser_of, forward_replaced, map_tensors
from diffusion_local.engine.loaded import IN_HALVES, Loaded
from diffusion_local.engine.loops import HeldLoop
from diffusion_local.engine.placement import WHOLE, MemoryGauge
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

log = logging.getLogger(__name__)

#: Tensors that stay the same over a picture's steps, of which halves are kept: embeddings of both passes and details.
KEPT_TENSORS = 16
#: Device memory that a process takes on a second GPU before it allocates a tensor.
CONTEXT_BYTES = 2**30
#: Arguments of a call of the denoiser.
Call = tuple[tuple[Any, ...], dict[str, Any]]
#: Halves of tensors that stay the same over the steps, by the tensor's id.
Halves = OrderedDict[int, tuple[torch.Tensor, list[torch.Tensor]]]
#: Creates the recorder of CUDA graphs on a device.
RecorderOf = Callable[[Device], Recorder | None]


def divisible(params: Params) -> bool:
    """Whether pictures with these params can be made in halves, as far as the params tell.

    LoRAs, ControlNets and reference pictures change the denoiser or give it inputs that its copy would lack.
    """
    added = params.loras or params.controls or params.references or params.regions
    return params.kind is not Kind.UPSCALE and params.guidance > 1 and not added


def can_halve(loaded: Loaded, crew: Pass) -> bool:
    """Whether a pass can be made in halves: a single picture with guidance, and a denoiser that stays on its device."""
    params = crew.parts[0].params
    return (
        loaded.family.halves
        and divisible(params)
        and loaded.family.uses_guidance(loaded.pipe, params.guidance)
        and len(crew.live) == 1
        and not params.place
        and not (loaded.kept or loaded.form.denoiser or loaded.hooked or loaded.ip_adapters)
        and loaded.rung in WHOLE
    )


def in_halves(loaded: Loaded, crew: Pass) -> bool:
    """Whether to make a pass in halves. A held pass continues as it began."""
    if isinstance(crew.held, HeldLoop):
        return crew.held.weights.endswith(IN_HALVES)
    return (crew.helper is not None or crew.parts[0].params.gpus == 2) and can_halve(loaded, crew)


def copied_to(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """A copy of a module on another device, copied from device to device without a second copy on the first."""
    memo: dict[int, Any] = {}
    for each in module.parameters():
        memo[id(each)] = torch.nn.Parameter(each.detach().to(device, copy=True), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach().to(device, copy=True)
    found = copy.deepcopy(module, memo)
    found.__dict__.pop("forward", None)  # the replacement of the running picture
    found._forward_pre_hooks.clear()
    return found


class Replica:
    """A model's denoiser on a second device, with its own CUDA graphs and fused form."""

    def __init__(
        self, loaded: Loaded, device: Device, recorder: Recorder | None, operations: Operations | None, need: int
    ) -> None:
        """``need``: estimated bytes of the denoiser's CUDA graph. Raises torch's errors."""
        self.slot, self._pipe, self._version = device.slot, weakref.ref(loaded.pipe), loaded.version
        self._device, self._gauge = device, MemoryGauge(device.torch)
        with self._current():
            denoiser = copied_to(denoiser_of(loaded.pipe), device.torch)
        self.graphs = Graphs(recorder)
        self._forms = Forms(operations, self.graphs.forget, device.bf16)
        self._denoiser, self._need = denoiser, need
        self._form: Any = None
        self._inputs: OrderedDict[int, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def is_current_copy(self, loaded: Loaded, slot: str) -> bool:
        """Whether this is a copy of the model's current weights at that slot."""
        return self._pipe() is loaded.pipe and (self._version, self.slot) == (loaded.version, slot)

    @contextmanager
    def around(self) -> Iterator[Callable[..., Any]]:
        """For one picture: the function that calls the denoiser."""
        self._inputs.clear()
        room = self._gauge.free()
        with self._current():
            self._form = self._forms.denoiser(SimpleNamespace(unet=self._denoiser), max(0, room - self._need))
        with self.graphs.around(self._denoiser, room, self._need, self._form):
            yield self._call

    @property
    def path(self) -> tuple[bool, bool]:
        return path_of(self._form)

    def close(self) -> None:
        """Wait for the device, and return all memory on it."""
        with suppress(Exception), self._current():  # the device may be lost
            if self._device.type == "cuda":
                torch.cuda.synchronize()
        self._inputs.clear()
        with suppress(Exception):
            self.graphs.forget()
        self._denoiser, self._form, self._forms = None, None, None  # type: ignore[assignment]
        with suppress(Exception), self._current():
            self._gauge.collect()

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], constant: frozenset[int]) -> Any:
        """Launch a call with copies of its tensors; ``constant``: ids of those that stay the same over the steps."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            known = self._inputs.get(id(tensor))
            if known is None or known[0] is not tensor:
                there = tensor.to(self._device.torch, non_blocking=True)
                if id(tensor) not in constant:
                    return there
                known = self._inputs[id(tensor)] = tensor, there
                if len(self._inputs) > KEPT_TENSORS:
                    self._inputs.popitem(last=False)
            return known[1]

        moved_args, moved_kwargs = map_tensors((args, kwargs), moved)
        with self._current():
            return self._denoiser(*moved_args, **moved_kwargs)

    def _current(self) -> Any:
        return torch.cuda.device(self._device.torch) if self._device.type == "cuda" else nullcontext()


def path_of(form: Any) -> tuple[bool, bool]:
    """Which code computes the denoiser: (whether the fused form, whether in 8 bits)."""
    return form.path if isinstance(form, FusedDenoiser) else (False, False)


@dataclass(slots=True)
class Helped:
    """Counts the denoiser calls of a picture, and those of which a second GPU computed half."""

    calls: int = 0
    helped: int = 0


class Halver:
    """Makes pictures in halves, and holds the copy of the denoiser on the second GPU while that is lent."""

    def __init__(
        self, device_at: Callable[[str], Device], recorder_of: RecorderOf, operations: Operations | None
    ) -> None:
        """``recorder_of`` and ``operations``: of the copies; see ``ModelCache``."""
        self._device_at, self._recorder_of, self._operations = device_at, recorder_of, operations
        self._replica: Replica | None = None
        self._running: tuple[ExitStack, Callable[..., Any]] | None = None

    @contextmanager
    def around(self, loaded: Loaded, helper: Helper | None, form: Any, need: int) -> Iterator[Helped]:
        """For one picture, call the denoiser by halves.

        ``form``: the fused form of the denoiser on this device; ``need``: see ``Replica``.
        """
        counted = Helped()
        halves: Halves = OrderedDict()

        def forward(compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            sample = args[0] if args else kwargs["sample"]
            if sample.shape[0] % 2:
                return compute(*args, **kwargs)
            (args, kwargs), other = split((args, kwargs), sample, halves)
            there = None if helper is None else self._launch(loaded, helper, need, other, halves)
            here = compute(*args, **kwargs)
            gathered = None if there is None else self._gather(there, path_of(form), sample.device, helper)
            counted.calls += 1
            counted.helped += gathered is not None
            return joined(here, compute(*other[0], **other[1]) if gathered is None else gathered)

        try:
            with forward_replaced(denoiser_of(loaded.pipe), lambda inner: partial(forward, inner)):
                yield counted
        finally:
            self._end_part()

    def close(self) -> None:
        """Remove the copy from the second GPU, once that has finished."""
        self._end_part()
        replica, self._replica = self._replica, None
        if replica is not None:
            log.info("the copy of the denoiser on %s is removed", replica.slot)
            replica.close()

    def _launch(self, loaded: Loaded, helper: Helper, need: int, other: Call, halves: Halves) -> Any:
        """Start a half on the second GPU; returns its output there, or None if this GPU must compute it."""
        slot = helper.slot()
        if not slot:
            self.close()
            return None
        try:
            if self._replica is None or not self._replica.is_current_copy(loaded, slot):
                self.close()
                device = self._device_at(slot)
                self._replica = Replica(loaded, device, self._recorder_of(device), self._operations, need)
                log.info("%s computes half of each step, with a copy of the denoiser", slot)
            if self._running is None:
                stack = ExitStack()
                self._running = stack, stack.enter_context(self._replica.around())
            return self._running[1](*other, frozenset(id(each[1]) for _, each in halves.values()))
        except Exception as problem:
            self._refuse(slot, helper, problem)
            return None

    def _gather(self, there: Any, path: tuple[bool, bool], device: torch.device, helper: Helper | None) -> Any:
        """The output of ``_launch`` on this device; None if it was computed by other code than here."""
        assert self._replica is not None
        assert helper is not None
        try:
            if self._replica.path != path:
                raise RuntimeError("the denoiser runs by other code there")
            return map_tensors(there, lambda tensor: tensor.to(device, non_blocking=True))
        except Exception as problem:
            self._refuse(self._replica.slot, helper, problem)
            return None

    def _refuse(self, slot: str, helper: Helper, problem: Exception) -> None:
        log.warning("%s does not help: %s", slot, faults.first_line(problem), exc_info=problem)
        self.close()
        helper.refuse()

    def _end_part(self) -> None:
        """End the replica's part in the running picture."""
        running, self._running = self._running, None
        if running is not None:
            running[0].close()


def split(call: Call, sample: torch.Tensor, halves: Halves) -> list[Call]:
    """The arguments of both calls. Tensors of one row per row of ``sample`` are divided, others are passed to both.

    ``halves`` keeps those of tensors that stay the same over the steps, so that a fused form sees that a prompt is
    unchanged. Halves are copies: their addresses are aligned like those of any tensor.
    """
    rows = sample.shape[0]

    def half(tensor: torch.Tensor, number: int) -> torch.Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            return tensor
        if tensor is sample:
            return tensor.chunk(2)[number].clone()
        known = halves.get(id(tensor))
        if known is None or known[0] is not tensor:
            known = halves[id(tensor)] = tensor, [each.clone() for each in tensor.chunk(2)]
            if len(halves) > KEPT_TENSORS:
                halves.popitem(last=False)
        return known[1][number]

    return [map_tensors(call, partial(half, number=number)) for number in range(2)]


def joined(first: Any, second: Any) -> Any:
    """The outputs of both halves as that of one call."""
    match first:
        case torch.Tensor():
            return torch.cat([first, second])
        case tuple() | list() if type(first) in (tuple, list):
            return type(first)(joined(*each) for each in zip(first, second, strict=True))
        case OrderedDict() if is_dataclass(first):
            made: Any = type(first)
            return made(**{name: joined(first[name], second[name]) for name in first})
        case _:
            return first
