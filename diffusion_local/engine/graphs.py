"""CUDA graphs of a model's parts: one launch replaces the thousands of kernel launches that Python makes per step.

A graph is valid for one signature: shapes and dtypes of the tensor arguments, and the values of all others. The first
call with a signature runs normally as a trial, the second is recorded, later ones are replayed with bit-identical
results. A recording refers to the weights' memory addresses: call ``forget`` before weights change or move.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from functools import partial, wraps
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)

#: Maximum number of recordings kept per part. Sizes, prompt lengths and guidance each give another signature.
MAX_GRAPHS_PER_PART = 6
#: Parts called at each step, whose replays in flight are limited.
STEPPING = frozenset({"denoiser", "fused denoiser", "compiled denoiser"})
#: The part that turns latents into pixels. Launching its kernels takes as long as a small picture's decoding.
DECODER = "decoder"
#: Parts that call compiled functions. Their trials must not be watched: torch.compile permanently falls back to eager
#: for a function called under a dispatch mode.
COMPILED = frozenset({"compiled denoiser"})
#: Other threads that use the device. While there are any, no graph is recorded.
others: set[object] = set()
#: Estimated size of a text encoder's graph, in bytes.
ENCODER_BYTES = 64 * 2**20
#: Rungs of the memory ladder whose weights are not moved during a picture.
STATIONARY_RUNGS = ("resident", "vae_tiling", "encoder_offload")


class NotRecordable(Exception):
    """A call that cannot be recorded. The message says why."""


class Recorder(Protocol):
    """Records calls on one device, for one model. ``bytes``: device memory that its recordings keep between calls."""

    bytes: int

    def try_out(self, run: Callable[[], Any], watched: bool) -> tuple[Any, str]:
        """Run a call as a trial: (its result, why it cannot be recorded or ""). Raises whatever ``run`` raises.

        Unrecordable operations are only detected if ``watched``.
        """
        ...

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record a call: (a function that replays it, the tensors that it writes). Raises any error of recording."""
        ...

    def paced(self) -> AbstractContextManager[None]:
        """Context of a replay: first waits until only a few earlier replays are still in flight."""
        ...

    def clear(self) -> None:
        """Release the memory of all recordings; none of them may be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """``replay`` reads the tensors ``inputs`` and writes those in ``output``."""

    inputs: list[torch.Tensor]
    replay: Callable[[], None]
    output: Any


class Denoising(Protocol):
    """A faster form of a denoiser; see ``fused.denoiser``."""

    def forward(self, run: Callable[..., Any], exact: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Same signature as the denoiser's own forward, ``exact``. ``run(part, call, *args, **kwargs)`` executes a
        function through a graph.
        """
        ...


class Graphs:
    """The graphs of one model's parts. Without a recorder every call runs directly."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._recorded: OrderedDict[tuple[str, Hashable], Recording] = OrderedDict()
        self._tried: OrderedDict[Hashable, None] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._in_use: set[tuple[str, Hashable]] = set()
        self._room = 0
        self._expected: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        return self._recorder.bytes if self._recorder else 0

    @property
    def replayed(self) -> bool:
        """Whether the latest picture was denoised with a graph."""
        return any(part in STEPPING for part, _ in self._in_use)

    @contextmanager
    def around(
        self,
        denoiser: torch.nn.Module,
        room: int,
        expected: int,
        form: Denoising | None = None,
        encoders: Mapping[str, torch.nn.Module] | None = None,
        decoding: int = 0,
    ) -> Iterator[None]:
        """For one picture, run the denoiser (or its faster ``form``) and the named text encoders through graphs.

        ``room``: bytes that the graphs may hold, 0 for no graphs; ``expected``: estimated bytes of the denoiser's graph
        for this picture, ``decoding`` those of ``decode``.
        """
        self._in_use.clear()
        self._room = room
        self._expected = dict.fromkeys(STEPPING, expected) | {DECODER: decoding}
        if self.bytes > max(room, 0):
            self.forget()
        recording = self._recorder is not None and room > 0
        run = self.run if recording else unrecorded
        with ExitStack() as stack:
            if form is not None:
                stack.enter_context(forward_replaced(denoiser, lambda exact: partial(form.forward, run, exact)))
            elif recording:
                stack.enter_context(forward_replaced(denoiser, lambda exact: partial(run, "denoiser", exact)))
            for name, encoder in (encoders or {}).items() if recording else ():
                stack.enter_context(forward_replaced(encoder, partial(partial, run, name)))
            yield

    def forget(self) -> bool:
        """Drop all graphs, because weights change or memory is needed; returns whether there were any."""
        recorded = bool(self._recorded)
        self._recorded.clear()
        self._tried.clear()
        if self._recorder and (recorded or self._recorder.bytes):
            self._recorder.clear()
        return recorded

    def disable(self) -> None:
        """Do not record the latest picture's graphs again, after running out of memory."""
        if new := self._in_use - self._refused:
            log.warning("out of memory with a CUDA graph: the model runs without one at this size from now on")
            self._refused |= new

    def run(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of a model's part through its graph, or directly if it has none."""
        tensors: list[torch.Tensor] = []
        try:
            key = part, signature((args, kwargs), tensors)
        except NotRecordable as problem:
            self._tell_once(part, str(problem), problem)
            return call(*args, **kwargs)
        if key in self._refused:
            return call(*args, **kwargs)
        recording = self._recorded.get(key)
        expected = self._expected.get(part, ENCODER_BYTES)
        if recording is None and not others and max(self.bytes, expected) <= self._room:
            if key not in self._tried:
                return self._try_out(key, *static_copy(call, args, kwargs))
            recording = self._record(key, *static_copy(call, args, kwargs))
        if recording is None:
            return call(*args, **kwargs)
        assert self._recorder is not None
        self._recorded.move_to_end(key)
        self._in_use.add(key)
        with self._recorder.paced() if part in STEPPING else nullcontext():
            for standing_in, tensor in zip(recording.inputs, tensors, strict=True):
                standing_in.copy_(tensor, non_blocking=True)
            recording.replay()
            return map_tensors(recording.output, torch.clone)  # schedulers may keep outputs over later steps

    def decode(self, decoder: Callable[[torch.Tensor], torch.Tensor], latents: torch.Tensor) -> torch.Tensor:
        """Decode through a graph, inside ``around``. Call ``forget`` before another decoder is used."""
        run = self.run if self._recorder is not None and self._room > 0 else unrecorded
        pixels: torch.Tensor = run(DECODER, decoder, latents)
        return pixels

    def _try_out(self, key: tuple[str, Hashable], run: Callable[[], Any], inputs: list[torch.Tensor]) -> Any:
        assert self._recorder is not None
        self._tried[key] = None
        if len(self._tried) > 10 * MAX_GRAPHS_PER_PART:
            self._tried.popitem(last=False)
        output, problem = self._recorder.try_out(run, key[0] not in COMPILED)
        if problem:
            self._refuse(key, problem)
        return output

    def _record(
        self, key: tuple[str, Hashable], run: Callable[[], Any], inputs: list[torch.Tensor]
    ) -> Recording | None:
        """Record a call; returns None if that fails or the recording exceeds the available memory."""
        assert self._recorder is not None
        same_part = [each for each in self._recorded if each[0] == key[0]]
        for each in same_part[: max(0, len(same_part) - MAX_GRAPHS_PER_PART + 1)]:
            del self._recorded[each]
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

    def _drop(self, key: tuple[str, Hashable], why: str, problem: Exception | None = None) -> None:
        """Handle a failed recording: the other graphs, which share its memory, are dropped and recorded again."""
        self.forget()
        self._refuse(key, why, problem)

    def _refuse(self, key: tuple[str, Hashable], why: str, problem: Exception | None = None) -> None:
        self._refused.add(key)
        log.warning("the %s runs without a CUDA graph: %s", key[0], why.splitlines()[0], exc_info=problem)

    def _tell_once(self, part: str, why: str, problem: Exception) -> None:
        if (part, why) not in self._refused:
            self._refuse((part, why), why, problem)


def unrecorded(part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Like ``Graphs.run``, but always calls the function directly."""
    return call(*args, **kwargs)


@contextmanager
def forward_replaced(
    module: torch.nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Temporarily replace a module's ``forward`` by ``make(original)``."""
    own, replaced = module.forward, module.__dict__.get("forward")
    replacement = make(own)

    @wraps(own)  # pipelines read the signature
    def forward(*args: Any, **kwargs: Any) -> Any:
        return replacement(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        if replaced is None:
            del module.forward
        else:
            module.forward = replaced


def signature(value: Any, tensors: list[torch.Tensor], numbers: bool = False) -> Hashable:
    """The signature of a call's arguments; appends their tensors, in order, to ``tensors``. Raises NotRecordable.

    A plain number might be the timestep, whose value would be frozen into the recording, so numbers are rejected unless
    ``numbers`` makes them part of the signature.
    """
    match value:
        case torch.Tensor():
            tensors.append(value)
            return (value.shape, value.stride(), value.dtype, value.device)
        case tuple() | list() if type(value) in (tuple, list):
            return (type(value), *(signature(each, tensors, numbers) for each in value))
        case dict() if type(value) is dict:
            return (dict, *((name, signature(each, tensors, numbers)) for name, each in value.items()))
        case OrderedDict() if is_dataclass(value):  # outputs of the transformers library
            return (type(value), *((name, signature(each, tensors, numbers)) for name, each in value.items()))
        case None | bool() | str() | torch.dtype():
            return (type(value), value)
        case int() | float() if numbers:
            return (type(value), value)
        case _:
            raise NotRecordable(f"it is given or gives a {type(value).__name__}")


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply ``change`` to every tensor in a nested structure."""
    match value:
        case torch.Tensor():
            return change(value)
        case tuple() | list() if type(value) in (tuple, list):
            return type(value)(map_tensors(each, change) for each in value)
        case dict() if type(value) is dict:
            return {name: map_tensors(each, change) for name, each in value.items()}
        case OrderedDict() if is_dataclass(value):
            made: Any = type(value)
            return made(**{name: map_tensors(each, change) for name, each in value.items()})
        case _:
            return value


def static_copy(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[[], Any], list[torch.Tensor]]:
    """The call bound to copies of its tensors, all on the device, and these copies."""
    tensors: list[torch.Tensor] = []
    signature((args, kwargs), tensors)
    device = next((each.device for each in tensors if each.device.type != "cpu"), torch.device("cpu"))
    copies: list[torch.Tensor] = []

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor.to(device, copy=True))
        return copies[-1]

    held_args, held_kwargs = map_tensors((args, kwargs), copy)
    return lambda: call(*held_args, **held_kwargs), copies


def denoiser_of(pipe: Any) -> torch.nn.Module:
    """The pipeline's denoiser: its UNet or transformer."""
    found: torch.nn.Module = getattr(pipe, "unet", None) or pipe.transformer
    return found


def clip_encoders(pipe: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's CLIP text encoders, by name. They are so small that kernel launches dominate their time."""
    parts = {name: getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")}
    return {
        name: part for name, part in parts.items() if part is not None and type(part).__name__.startswith("CLIPText")
    }
