"""Records calls on a CUDA device with ``torch.cuda.graph``; implements ``graphs.Recorder``."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_local.engine.graphs import map_tensors

#: Maximum number of step replays in flight: enough to keep the device busy, few enough to cancel quickly.
STEPS_AHEAD = 2
#: Operations that read values back from the device.
_READING = frozenset(
    f"aten::{name}"
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive")
)
_MOVING = frozenset({"aten::copy_", "aten::_to_copy"})
_INDEXING = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})


class SyncDetector(TorchDispatchMode):
    """Stores in ``found`` the first operation that makes the CPU wait for the device, which cannot be recorded."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.found = ""
        self._type = device_type

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name
        if not self.found and name in _READING | _MOVING | _INDEXING and self._waits(name, args, output):
            self.found = f"{name} makes the CPU wait for the device"
        return output

    def _waits(self, name: str, args: Any, output: Any) -> bool:
        inputs = tensors_in(args)
        if name in _MOVING:
            return (
                self._type in (types := {each.device.type for each in [*inputs, *tensors_in(output)]})
                and len(types) > 1
            )
        there = any(each.device.type == self._type for each in inputs)
        return there and (name in _READING or any(each.dtype in (torch.bool, torch.uint8) for each in inputs[1:]))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, tuple | list) else []


class CudaRecorder:
    """Records CUDA graphs that share one memory pool.

    They can share it because only a graph's output outlives its replay, and the caller copies that immediately.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """``stream``: used for recording. One for all models, because CUDA libraries keep a workspace per stream."""
        self.bytes = 0
        self._device = device
        self._stream = stream
        self._pool: Any = None
        self._on_their_way: deque[torch.cuda.Event] = deque()

    def try_out(self, run: Callable[[], Any], watched: bool) -> tuple[Any, str]:
        """Run the trial on the recording stream, so that CUDA libraries are initialised there before recording."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        waits = SyncDetector("cuda")
        with torch.cuda.stream(self._stream), waits if watched else nullcontext():
            output = run()
        current.wait_stream(self._stream)
        return map_tensors(output, torch.clone), waits.found

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        graph = torch.cuda.CUDAGraph()
        # restores the current stream if recording fails, which torch.cuda.graph does not do
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream()):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            try:
                # thread_local: other threads draw previews and save pictures meanwhile
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    output = run()
            except BaseException:
                self._mend()
                raise
            self.bytes += max(0, torch.cuda.memory_reserved() - before)
        return partial(self._replay, graph), output

    @contextmanager
    def paced(self) -> Iterator[None]:
        while len(self._on_their_way) >= STEPS_AHEAD:
            self._on_their_way.popleft().synchronize()
        yield
        with torch.cuda.device(self._device):
            done = torch.cuda.Event(blocking=True)
            done.record()
        self._on_their_way.append(done)

    def clear(self) -> None:
        with torch.cuda.device(self._device):
            torch.cuda.synchronize()
            self._on_their_way.clear()
            self._pool, self.bytes = None, 0
            torch.cuda.empty_cache()

    def _replay(self, graph: torch.cuda.CUDAGraph) -> None:
        with torch.cuda.device(self._device):
            graph.replay()

    def _mend(self) -> None:
        """Clean up after a failed recording. PyTorch before 2.12 otherwise treats it as still in progress, and never
        frees memory again.
        """
        pool, self._pool = self._pool, None
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(self._device.index, pool)
            torch._C._cuda_releasePool(self._device.index, pool)
        with suppress(Exception):  # a successful recording resets the random generator's state
            whole = torch.cuda.CUDAGraph()
            with torch.cuda.graph(whole, stream=self._stream, capture_error_mode="thread_local"):
                torch.zeros(1, device=self._device)


def recorders(device: str) -> Callable[[], CudaRecorder]:
    """A factory of recorders for the models on one device, which share a recording stream."""
    stream = torch.cuda.Stream(device)
    return lambda: CudaRecorder(torch.device(device), stream)
