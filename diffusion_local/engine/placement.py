"""Places a pipeline's parts by rung: on the device, or in main memory until needed.

The offloading is diffusers' own, but for ``encoder_offload``. Attention slicing replaces torch's fused attention, which
never holds a whole map, by a slower one that holds slices of it. On CUDA that takes more memory, so it is for the other
devices' last rung.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import accelerate
import psutil
import torch

from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.memory import SMALL_TILE, TILE

#: Rungs that a placed pipeline can leave for any other; from the rest only a fresh load leads back.
MOVABLE = frozenset({"resident", "vae_tiling", "encoder_offload", "model_offload"})
#: Rungs on which every part stays on the device as a whole.
WHOLE = frozenset({"resident", "vae_tiling"})
_CGROUP = Path("/sys/fs/cgroup")


def place(pipe: Any, rung: str, device: str) -> None:
    """Bring a pipeline to a rung, from the CPU or from a rung of MOVABLE."""
    pipe.remove_all_hooks()
    _tile(pipe.vae, rung)
    if rung == "attention_slicing":
        with suppress(NotImplementedError, ValueError):  # transformers slice nothing
            pipe.enable_attention_slicing()
    match rung:
        case "encoder_offload":
            _keep_denoiser(pipe, device)
        case "model_offload":
            pipe.enable_model_cpu_offload(device=device)
        case "group_offload":
            pipe.to("cpu")
            pipe.enable_group_offload(
                onload_device=torch.device(device),
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=device.startswith("cuda"),
                exclude_modules=["vae"],  # small, and its halves are called one by one, which prefetching cannot follow
            )
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case _:
            pipe.to(device)


def store_as_fp8(pipe: Any, dtype: torch.dtype) -> None:
    """Keep the denoiser's matrices in fp8; each is cast when it is used. What reads and writes latents stays whole."""
    denoiser: Any = denoiser_of(pipe)
    denoiser.enable_layerwise_casting(torch.float8_e4m3fn, dtype, skip_modules_pattern=WHOLE_LAYERS)


#: Layers that stay as they are beside fp8, as patterns of their names. Norms have no matrices, so they stay too.
WHOLE_LAYERS = ("pos_embed", "patch_embed", "^proj_in$", "^proj_out$", "^conv_in$", "^conv_out$")


def swap_vae(pipe: Any, vae: Any, rung: str, device: str) -> None:
    """Put another VAE, from the CPU, into a pipeline that was placed; the one before goes there, free of hooks."""
    before = pipe.vae
    match rung:
        case "sequential":
            accelerate.hooks.remove_hook_from_module(before, recurse=True)  # which brings its weights back
            pipe.register_modules(vae=vae)
            _tile(vae, rung)
            accelerate.cpu_offload(vae, torch.device(device))
        case "encoder_offload" | "model_offload":  # the hooks know each other, so all are made anew
            pipe.remove_all_hooks()
            pipe.register_modules(vae=vae)
            place(pipe, rung, device)
        case _:
            pipe.register_modules(vae=vae)
            _tile(vae, rung)
            vae.to(device)
    before.to("cpu")


@contextmanager
def without_hooks(pipe: Any, rung: str) -> Iterator[None]:
    """Remove our offload hooks while parts are changed. diffusers handles the hooks of its own rungs."""
    if rung != "encoder_offload":
        yield
        return
    device = pipe._execution_device
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        _keep_denoiser(pipe, device)


def offload_encoders(pipe: Any) -> None:
    """Whole parts that have done their work go back to where they wait."""
    for part in _modules(pipe):
        hook = getattr(part, "_hf_hook", None)
        if isinstance(hook, accelerate.hooks.CpuOffload):
            hook.init_hook(part)


def offload_all(pipe: Any) -> None:
    """Between two pictures: parts that were called by themselves go back to where they wait."""
    offload_encoders(pipe)
    pipe.maybe_free_model_hooks()


def bytes_on(pipe: Any, device_type: str) -> int:
    """Bytes of weights on the device."""
    return sum(bytes_of(module, device_type) for module in _modules(pipe))


def bytes_of(module: torch.nn.Module, device_type: str) -> int:
    """Bytes of a module's weights on the device."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device_type)


def vae_in_fp32(pipe: Any, rung: str, device: str) -> None:
    """Run the VAE in fp32 from now on."""
    if rung == "sequential":  # its weights are held by the hooks
        accelerate.hooks.remove_hook_from_module(pipe.vae, recurse=True)
        pipe.vae.to(dtype=torch.float32)
        accelerate.cpu_offload(pipe.vae, torch.device(device))
    else:
        pipe.vae.to(dtype=torch.float32)


def _modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _keep_denoiser(pipe: Any, device: str | torch.device) -> None:
    """It lies on the device; each other part comes when it is called, and the one before it goes.

    Unlike diffusers' ``enable_model_cpu_offload``, which moves the denoiser, too, out and in for each picture.
    """
    kept, hook = denoiser_of(pipe), None
    kept.to(device)
    for part in _modules(pipe):
        if part is not kept:
            _, hook = accelerate.cpu_offload_with_hook(part, device, prev_module_hook=hook)


def _tile(vae: Any, rung: str) -> None:
    """Decode whole, or in tiles of the rung's size; diffusers' own default is the size that the VAE was trained at."""
    if not hasattr(vae, "enable_tiling"):
        return
    if rung == "resident":
        vae.disable_tiling()
        return
    side = SMALL_TILE if rung == "sequential" else TILE
    vae.enable_tiling()
    scale = 2 ** (len(vae.config.block_out_channels) - 1) if hasattr(vae.config, "block_out_channels") else 8
    if hasattr(vae, "tile_sample_min_size"):
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // scale


class MemoryGauge:
    """Memory of one device: free bytes, and our peak use."""

    def __init__(self, device: str, limit: int = 0) -> None:
        """``limit``: most bytes of a CUDA GPU that this process may take; 0 is all."""
        self._device = device
        self._type = device.partition(":")[0]
        self.cap(limit)

    def cap(self, limit: int) -> None:
        """Limit allocations to ``limit`` bytes from now on."""
        self.limit = limit
        if self._type == "cuda":
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(limit or total, total) / total, self._device)

    def free(self) -> int:
        """Bytes that a model may still take."""
        if self._type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            held = torch.cuda.memory_reserved(self._device)
            used = torch.cuda.memory_allocated(self._device)
            free += held - used
            return min(free, self.limit - used) if self.limit else free
        if self._type == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return free_main_memory()

    def used(self) -> int:
        """Bytes of tensors that are on the device; 0 where that is not known."""
        return torch.cuda.memory_allocated(self._device) if self._type == "cuda" else 0

    def collect(self) -> None:
        """Return unused memory to the device."""
        gc.collect()
        if self._type == "cuda":
            torch.cuda.empty_cache()
        elif self._type == "mps":
            torch.mps.empty_cache()

    def start(self) -> None:
        """Measure the peak from here on."""
        if self._type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Most bytes of tensors on the device since ``start``; 0 where that is not known."""
        return torch.cuda.max_memory_allocated(self._device) if self._type == "cuda" else 0


def free_main_memory() -> int:
    """Bytes of main memory that are free for this process: the machine's, or less in a container with a limit."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # not on Linux, or no limit
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return max(free, 0)
