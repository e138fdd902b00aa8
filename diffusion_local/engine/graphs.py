"""CUDA graphs of a denoiser: one call starts all the kernels of a step, where Python would start thousands.

A graph is good for one signature: shapes and types of the tensors among the arguments, and the values of the rest. The
first call of a signature is tried out, the second recorded, later ones are replayed; the numbers are the same, bit by
bit. A graph is bound to the weights as they lay when it was recorded: ``forget`` it before they change.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

#: Signatures that are kept for a model: sizes, lengths of prompts, with guidance and without.
MOST = 6
#: Rungs whose weights stay where they are.
RUNGS = ("resident", "vae_tiling", "encoder_offload")


class Unrecordable(Exception):
    """A call that cannot be recorded. The message says why."""


class Recorder(Protocol):
    """Records on one device, for one model. ``bytes`` are those that its recordings hold from one call to the next."""

    bytes: int

    def try_out(self, run: Callable[[], Any]) -> tuple[Any, str]:
        """What ``run`` returns, and why it cannot be recorded, else an empty string. Raises what ``run`` raises."""
        ...

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """A function that does it again, and the tensors that it writes. Raises whatever goes wrong."""
        ...

    def clear(self) -> None:
        """Give the memory of the recordings back; none of them is used any more."""
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """``replay`` reads the tensors ``inputs`` and writes those in ``output``."""

    inputs: list[torch.Tensor]
    replay: Callable[[], None]
    output: Any


class Graphs:
    """The graphs of one model's denoiser. Without a recorder there are none."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._recorded: OrderedDict[Hashable, Recording] = OrderedDict()
        self._tried: OrderedDict[Hashable, None] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._in_use: set[Hashable] = set()
        self._room = self._expected = 0

    @property
    def bytes(self) -> int:
        return self._recorder.bytes if self._recorder else 0

    @property
    def replayed(self) -> bool:
        """Whether the latest picture was made with a graph."""
        return bool(self._in_use)

    @contextmanager
    def around(self, denoiser: torch.nn.Module, room: int, expected: int) -> Iterator[None]:
        """Have the denoiser run by graphs while one picture is made.

        They may hold ``room`` bytes; ``expected`` is the estimate for this picture. Without room it runs as ever.
        """
        self._in_use.clear()
        self._room, self._expected = room, expected
        if self.bytes > max(room, 0):
            self.forget()
        if self._recorder is None or room <= 0:
            yield
            return
        eager, own = denoiser.forward, denoiser.__dict__.get("forward")

        @wraps(eager)  # pipelines read the signature
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(eager, args, kwargs)

        denoiser.forward = forward
        try:
            yield
        finally:
            if own is None:
                del denoiser.forward
            else:
                denoiser.forward = own

    def forget(self) -> bool:
        """Drop every graph, as the weights change or the memory is needed. Whether there were any."""
        had = bool(self._recorded)
        self._recorded.clear()
        self._tried.clear()
        if self._recorder and (had or self._recorder.bytes):
            self._recorder.clear()
        return had

    def refuse(self) -> None:
        """The memory ran out: what was recorded or replayed for the latest picture is not recorded again."""
        if new := self._in_use - self._refused:
            log.warning("out of memory with a CUDA graph: the model runs without one at this size from now on")
            self._refused |= new

    def _run(self, eager: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors: list[torch.Tensor] = []
        try:
            key = signature((args, kwargs), tensors)
        except Unrecordable as problem:
            self._tell_once(str(problem), problem)
            return eager(*args, **kwargs)
        if key in self._refused:
            return eager(*args, **kwargs)
        recording = self._recorded.get(key)
        if recording is None and max(self.bytes, self._expected) <= self._room:
            if key not in self._tried:
                return self._try_out(key, *standing(eager, args, kwargs))
            recording = self._record(key, *standing(eager, args, kwargs))
        if recording is None:
            return eager(*args, **kwargs)
        self._recorded.move_to_end(key)
        self._in_use.add(key)
        for standing_in, tensor in zip(recording.inputs, tensors, strict=True):
            standing_in.copy_(tensor, non_blocking=True)
        recording.replay()
        return mapped(recording.output, torch.clone)  # a scheduler may keep what it is given over later steps

    def _try_out(self, key: Hashable, run: Callable[[], Any], inputs: list[torch.Tensor]) -> Any:
        assert self._recorder is not None
        self._tried[key] = None
        if len(self._tried) > 10 * MOST:
            self._tried.popitem(last=False)
        output, problem = self._recorder.try_out(run)
        if problem:
            self._refuse(key, problem)
        return output

    def _record(self, key: Hashable, run: Callable[[], Any], inputs: list[torch.Tensor]) -> Recording | None:
        """None where it cannot be recorded, or its memory does not suffice."""
        assert self._recorder is not None
        while len(self._recorded) >= MOST:
            self._recorded.popitem(last=False)
        try:
            replay, output = self._recorder.record(run)
            signature(output, [])
        except Exception as problem:
            self._drop(key, f"{type(problem).__name__}: {problem}", problem)
            return None
        if self.bytes > self._room:
            self._drop(key, f"{self.bytes / 2**20:.0f} MiB that it holds do not fit")
            return None
        recording = self._recorded[key] = Recording(inputs, replay, output)
        return recording

    def _drop(self, key: Hashable, why: str, problem: Exception | None = None) -> None:
        """A recording failed: the others, which share its memory, are made again."""
        self.forget()
        self._refuse(key, why, problem)

    def _refuse(self, key: Hashable, why: str, problem: Exception | None = None) -> None:
        self._refused.add(key)
        log.warning("the denoiser runs without a CUDA graph: %s", why.splitlines()[0], exc_info=problem)

    def _tell_once(self, why: str, problem: Exception) -> None:
        if why not in self._refused:
            self._refuse(why, why, problem)


def signature(value: Any, tensors: list[torch.Tensor]) -> Hashable:
    """What a recording depends on; its tensors, in order, are put into ``tensors``. Raises Unrecordable.

    A number may be the timestep, which would be recorded as it is.
    """
    match value:
        case torch.Tensor():
            tensors.append(value)
            return (value.shape, value.stride(), value.dtype, value.device)
        case tuple() | list() if type(value) in (tuple, list):
            return (type(value), *(signature(each, tensors) for each in value))
        case dict() if type(value) is dict:
            return (dict, *((name, signature(each, tensors)) for name, each in value.items()))
        case None | bool() | str() | torch.dtype():
            return (type(value), value)
        case _:
            raise Unrecordable(f"it is given or gives a {type(value).__name__}")


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with other tensors."""
    match value:
        case torch.Tensor():
            return change(value)
        case tuple() | list() if type(value) in (tuple, list):
            return type(value)(mapped(each, change) for each in value)
        case dict() if type(value) is dict:
            return {name: mapped(each, change) for name, each in value.items()}
        case _:
            return value


def standing(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[[], Any], list[torch.Tensor]]:
    """The call with copies of its tensors, all of them on the device, and the copies."""
    given: list[torch.Tensor] = []
    signature((args, kwargs), given)
    device = next((each.device for each in given if each.device.type != "cpu"), torch.device("cpu"))
    copies: list[torch.Tensor] = []

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor.to(device, copy=True))
        return copies[-1]

    held_args, held_kwargs = mapped((args, kwargs), copy)
    return lambda: call(*held_args, **held_kwargs), copies


def denoiser_of(pipe: Any) -> torch.nn.Module:
    """The part of a pipeline that is called at each step."""
    found: torch.nn.Module = getattr(pipe, "unet", None) or pipe.transformer
    return found
