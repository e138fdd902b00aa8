"""Runs a transformer with its repeated blocks compiled by torch.compile.

Compilation takes tens of seconds the first time. It happens on a background thread, once per shape of the inputs, while
pictures use the uncompiled transformer; if it fails, they continue to. The result is cached on disk
(``settings.keep_kernels``).
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffusion_local.engine import faults, graphs
from diffusion_local.engine.fused.denoiser import EIGHT_BIT_TOLERANCE, Run, check
from diffusion_local.engine.fused.layers import EIGHT_BIT_MULTIPLE
from diffusion_local.engine.fused.operations import Operations, quantise_rows
from diffusion_local.engine.graphs import NotRecordable, map_tensors, signature

log = logging.getLogger(__name__)

#: Maximum number of input shapes to compile for; torch compiles at most 8 versions of a function.
MOST_SHAPES = 6
#: Name parts of layers that process one token per picture: 8 bits would cost precision there and save no time.
MODULATION = ("norm", "mod", "ada")
#: Longest row (elements) whose quantisation is left to the compiler, which fuses it with the preceding operations. For
#: longer rows it would compute those twice, so a separate kernel is faster.
FUSED_ROW = 8192
#: Largest ratio of an 8-bit step's duration to an exact step's at which 8 bits are worth the loss of precision.
WORTHWHILE = 0.9

Call = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]


class CompiledTransformer:
    """The compiled form of one model's transformer.

    Its first compiled step is compared with the transformer's own. If they differ, or compilation or a kernel fails,
    the model uses the exact path from then on, and the reason is logged once.
    """

    name = "compiled blocks"

    def __init__(
        self,
        transformer: torch.nn.Module,
        operations: Operations,
        forget: Callable[[], Any],
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """``forget`` is called whenever recorded CUDA graphs become invalid; ``start`` runs a function in the
        background (default: on a thread).
        """
        self.used = False
        self.eight_bits = operations.eight_bits
        self._operations, self._forget, self._start = operations, forget, start or in_background
        self._blocks = repeated_blocks(transformer)
        self._compiled: dict[type, Callable[..., Any]] = {}
        self._eight: dict[tuple[torch.nn.Module, str], torch.nn.Module] = {}
        self._ready: set[Hashable] = set()
        self._in_picture: frozenset[Hashable] = frozenset()  # ready at its start: one path per picture
        self._preparing: Hashable = None
        self._generation = 0
        self._checked = False
        self._refused = ""
        if not self._blocks:
            self._refuse("diffusers names no repeated blocks of it")

    def ready(self, room: int) -> bool:
        """Whether the next picture can use compiled blocks. ``room``: bytes available for 8-bit copies of weights."""
        self.used = False
        self._in_picture = frozenset(self._ready)
        if self._refused:
            return False
        if self.eight_bits and not self._eight:
            layers = list(large_layers(self._blocks))
            if sum(layer.weight.numel() for _, _, layer in layers) > room:
                self._refuse_eight_bits("there is no room for weights in 8 bits")
            else:
                self._eight = {
                    (parent, name): EightBitLinear(layer, self._operations) for parent, name, layer in layers
                }
                if not layers:
                    self._refuse_eight_bits("it has no layers that gain by it")
        return True

    def drop(self) -> None:
        """Discard compiled state, before weights change or move or the exact path is requested."""
        self._generation += 1
        self._eight.clear()
        self._ready.clear()
        self._in_picture = frozenset()
        self._preparing, self._checked = None, False

    def forward(self, run: Run, exact: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Has the signature of the transformer's forward; ``exact`` is the original."""
        try:
            key: Hashable = signature((args, kwargs), [], numbers=True)
        except NotRecordable:
            return run("denoiser", exact, *args, **kwargs)
        if key not in self._in_picture:
            if self._refused or key in self._ready or len(self._ready) >= MOST_SHAPES:
                return run("denoiser", exact, *args, **kwargs)
            if self._preparing is not None:
                return exact(*args, **kwargs)
            return self._exact_and_prepare(key, exact, args, kwargs)
        try:
            output = self._step(run, exact, args, kwargs)
        except Exception as problem:
            if faults.is_out_of_memory(problem) or faults.is_device_lost(problem):
                raise
            self._fail(problem)
            return run("denoiser", exact, *args, **kwargs)
        self.used = True
        return output

    def _step(self, run: Run, exact: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            with self._blocks_compiled():
                return exact(*args, **kwargs)

        if self._checked:
            return run("compiled denoiser", compiled, *args, **kwargs)
        output = compiled(*args, **kwargs)
        made: list[torch.Tensor] = []
        expected: list[torch.Tensor] = []
        signature(output, made, numbers=True)
        signature(exact(*args, **kwargs), expected, numbers=True)
        for one, other in zip(made, expected, strict=True):
            check(one, other, EIGHT_BIT_TOLERANCE if self.eight_bits else 0.0)
        if self.eight_bits:
            own = seconds(lambda: exact(*args, **kwargs), made[0].device)
            if seconds(lambda: compiled(*args, **kwargs), made[0].device) > own * WORTHWHILE:
                raise RuntimeError("a step in 8 bits takes as long as one without on this card")
        self._checked = True
        return output

    @contextmanager
    def _blocks_compiled(self) -> Iterator[None]:
        """Run blocks compiled, and their large layers in 8 bits, inside this context."""
        own = {(parent, name): getattr(parent, name) for parent, name in self._eight}
        for (parent, name), layer in self._eight.items():
            parent._modules[name] = layer
        for block in self._blocks:
            block.__dict__["forward"] = bound(self._compiled[type(block)], block)
        try:
            yield
        finally:
            for block in self._blocks:
                block.__dict__.pop("forward", None)
            for (parent, name), layer in own.items():
                parent._modules[name] = layer

    # -- preparing -----------------------------------------------------------------------------------------------------

    def _exact_and_prepare(self, key: Hashable, exact: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run one step on the exact path, and compile its block calls in the background."""
        calls: dict[Hashable, Call] = {}
        hooks = [block.register_forward_pre_hook(recorder(calls), with_kwargs=True) for block in self._blocks]
        try:
            output = exact(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        try:
            prepared = [(self._private_copy(block), *arguments) for block, *arguments in calls.values()]
        except Exception as problem:
            if faults.is_out_of_memory(problem) or faults.is_device_lost(problem):
                raise
            self._fail(problem)
            return output
        for block in self._blocks:
            if type(block) not in self._compiled:
                self._compiled[type(block)] = self._operations.compile(type(block).forward)
        self._preparing, generation = key, self._generation
        self._start(lambda: self._prepare(key, prepared, generation))
        return output

    def _private_copy(self, block: torch.nn.Module) -> torch.nn.Module:
        """A copy of a block with shared weights, and 8-bit layers where planned: the model's own block must not change
        while pictures use it on another thread.
        """
        shared = {id(each): each for each in (*block.parameters(), *block.buffers())}
        own: torch.nn.Module = copy.deepcopy(block, shared)
        for parent, twin in zip(block.modules(), own.modules(), strict=True):
            for name in parent._modules:
                if (parent, name) in self._eight:
                    twin._modules[name] = self._eight[parent, name]
        return own

    def _prepare(self, key: Hashable, calls: list[Any], generation: int) -> None:
        try:
            with torch.no_grad(), other_stream(calls):
                for block, args, kwargs in calls:
                    self._compiled[type(block)](block, *args, **kwargs)
        except Exception as problem:  # the compiler, its cache or a kernel may raise anything
            if generation == self._generation:
                self._fail(problem)
        else:
            if generation == self._generation:
                self._ready.add(key)
        finally:
            if generation == self._generation:
                self._preparing = None

    def _fail(self, problem: Exception) -> None:
        why = f"{type(problem).__name__}: {problem}"
        if self.eight_bits:
            self._refuse_eight_bits(why)
        else:
            self._refuse(why, problem)
        self.drop()
        self._forget()

    def _refuse_eight_bits(self, why: str) -> None:
        self.eight_bits = False
        self._eight.clear()
        log.warning("the denoiser does not run in 8 bits: %s", why.splitlines()[0])

    def _refuse(self, why: str, problem: Exception | None = None) -> None:
        self._refused = why or "unknown"
        log.warning("the denoiser runs the exact way: %s", why.splitlines()[0], exc_info=problem)


class EightBitLinear(torch.nn.Module):
    """A linear layer with 8-bit weights, which quantises each row of its input when called."""

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, layer: torch.nn.Linear, operations: Operations) -> None:
        super().__init__()
        self._operations = operations
        values, scales = quantise_rows(layer.weight.detach())
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("scales", scales.t(), persistent=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scales = self._quantise(x.reshape(-1, x.shape[-1]))
        made: torch.Tensor
        if x.device.type == "cuda":
            made = torch._scaled_mm(
                rows, self.values.t(), scale_a=scales, scale_b=self.scales, bias=self.bias, out_dtype=x.dtype,
                use_fast_accum=True,
            )  # fmt: skip
        else:
            made = ((rows.float() * scales) @ (self.values.float().t() * self.scales)).to(x.dtype)
            made = made if self.bias is None else made + self.bias
        return made.reshape(*x.shape[:-1], made.shape[-1])

    def _quantise(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if rows.shape[-1] <= FUSED_ROW:
            return quantise_rows(rows)
        made = self._operations.quantise(rows)
        return made.values, made.scales


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a step takes after a warm-up; 0.0 on devices other than CUDA."""
    if device.type != "cuda":
        return 0.0
    step()
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def repeated_blocks(transformer: torch.nn.Module) -> list[torch.nn.Module]:
    """Blocks of the classes that diffusers lists for ``compile_repeated_blocks``, and those of Stable Diffusion 3.5.

    Other blocks may have shapes that depend on values, and would be recompiled at each step.
    """
    names = getattr(transformer, "_repeated_blocks", None) or ("JointTransformerBlock",)
    return [each for each in transformer.modules() if type(each).__name__ in names]


def large_layers(blocks: list[torch.nn.Module]) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """(parent, name, layer) of each layer in ``blocks`` to run in 8 bits."""
    for block in blocks:
        for path, parent in block.named_modules():
            for name, layer in parent.named_children():
                fits = type(layer) is torch.nn.Linear and all(
                    side % EIGHT_BIT_MULTIPLE == 0 for side in layer.weight.shape
                )
                if fits and not any(word in f"{path}.{name}".lower() for word in MODULATION):
                    yield parent, name, layer


def bound(function: Callable[..., Any], block: torch.nn.Module) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(block, *args, **kwargs)

    return forward


def recorder(calls: dict[Hashable, Call]) -> Callable[..., None]:
    """A forward hook that stores in ``calls`` one call per kind of block (class, plain attributes, input shapes)."""

    def record(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plain = {name: value for name, value in vars(block).items() if isinstance(value, bool | int | str | None)}
        layers = tuple(name for name, _ in block.named_children())
        key = (type(block), tuple(sorted(plain.items(), key=str)), layers, signature((args, kwargs), [], numbers=True))
        if key not in calls:
            own_args, own_kwargs = map_tensors((args, kwargs), copied)
            calls[key] = block, own_args, own_kwargs

    return record


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, for which blocks are compiled; ``torch.clone`` drops those of a partial view."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)


@contextmanager
def other_stream(calls: list[Any]) -> Iterator[None]:
    """Run a compilation's kernels on their own CUDA stream, concurrently with the picture in progress."""
    tensors: list[torch.Tensor] = []
    signature([[args, kwargs] for _, args, kwargs in calls], tensors, numbers=True)
    device = next((each.device for each in tensors if each.device.type == "cuda"), None)
    if device is None:
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def in_background(work: Callable[[], None]) -> None:
    """Run ``work`` on a daemon thread, during which no CUDA graph is recorded."""

    def run() -> None:
        try:
            work()
        finally:
            graphs.others.discard(thread)

    thread = threading.Thread(target=run, name="compile", daemon=True)
    graphs.others.add(thread)
    thread.start()
