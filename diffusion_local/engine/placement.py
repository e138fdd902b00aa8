"""Places a pipeline's parts according to the rung: on the device, or in main memory until they are needed.

Offloading is diffusers' own, except on the rungs ``encoder_offload`` and ``block_streaming``. Attention slicing
replaces torch's fused attention, which never holds a whole attention map, by a slower one that holds slices. On CUDA
that takes more memory, so it is the last rung of other devices only.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import psutil
import torch

from diffusion_local.engine import block_weights
from diffusion_local.engine.graphs import STATIONARY_RUNGS, denoiser_of
from diffusion_local.engine.kept_blocks import kept_for
from diffusion_local.engine.memory import SMALL_TILE, STREAMING, TILE
from diffusion_local.engine.precision import MAIN_SHARE, main_memory
from diffusion_local.engine.streaming import Streamed, Visiting

#: Rungs from which a pipeline can be moved to any other. From the others, the model must be loaded again.
MOVABLE = frozenset({"resident", "vae_tiling", "encoder_offload", STREAMING, "model_offload"})
#: Rungs on which every part stays entirely on the device.
WHOLE = frozenset({"resident", "vae_tiling"})
log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup")
#: The text conditioning of a UNet with IP-Adapters, in its configuration.
IP_ADAPTER_INPUT = "ip_image_proj"
#: Patterns of the names of layers that are not stored in fp8. Norms have no matrices, so they stay as well.
WHOLE_LAYERS = ("pos_embed", "patch_embed", "^proj_in$", "^proj_out$", "^conv_in$", "^conv_out$")


def slice_attention(pipe: Any, rung: str) -> None:
    """Slice attention on the rung of that name, unless there is an IP-Adapter, whose layers slicing would replace."""
    unet = getattr(pipe, "unet", None)
    if rung == "attention_slicing" and not (unet is not None and unet.config.encoder_hid_dim_type == IP_ADAPTER_INPUT):
        with suppress(NotImplementedError, ValueError):  # transformers slice nothing
            pipe.enable_attention_slicing()


def place(pipe: Any, rung: str, device: str, room: int | None = None) -> None:
    """Move a pipeline to a rung, from the CPU or from a rung in MOVABLE.

    ``room``: bytes on the device for blocks that stay there while the others are streamed; None: as before.
    """
    before = streamed_denoiser(pipe)
    pipe.remove_all_hooks()
    if rung != STREAMING:
        for part in _modules(pipe):
            block_weights.forget(part)
    tile(pipe.vae, rung)
    slice_attention(pipe, rung)
    match rung:
        case "encoder_offload":
            _keep_denoiser(pipe, device)
        case "block_streaming":
            _stream_blocks(
                pipe, device, before.choose if before and room is None else partial(kept_for, room=room or 0)
            )
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
    """Store the denoiser's matrices in fp8 and cast each when it is used. Input and output layers stay in ``dtype``."""
    denoiser: Any = denoiser_of(pipe)
    denoiser.enable_layerwise_casting(torch.float8_e4m3fn, dtype, skip_modules_pattern=WHOLE_LAYERS)


def swap_vae(pipe: Any, vae: Any, rung: str, device: str) -> None:
    """Put another VAE, now on the CPU, into a placed pipeline. The previous one moves to the CPU, without hooks."""
    before = pipe.vae
    match rung:
        case "sequential":
            accelerate.hooks.remove_hook_from_module(before, recurse=True)  # also restores its weights
            pipe.register_modules(vae=vae)
            tile(vae, rung)
            accelerate.cpu_offload(vae, torch.device(device))
        case "block_streaming":
            streamed = streamed_denoiser(pipe)
            assert streamed is not None
            accelerate.hooks.remove_hook_from_module(before, recurse=True)
            pipe.register_modules(vae=vae)
            tile(vae, rung)
            accelerate.hooks.add_hook_to_module(vae, Visiting(device, streamed.release, _may_gather))
        case "encoder_offload" | "model_offload":  # hooks refer to each other, so recreate all of them
            pipe.remove_all_hooks()
            pipe.register_modules(vae=vae)
            place(pipe, rung, device)
        case _:
            pipe.register_modules(vae=vae)
            tile(vae, rung)
            vae.to(device)
    before.to("cpu")


@contextmanager
def without_hooks(pipe: Any, rung: str) -> Iterator[None]:
    """Remove our own offload hooks while parts are changed. diffusers itself handles those of the other rungs."""
    if rung not in ("encoder_offload", STREAMING):
        yield
        return
    device, before = pipe._execution_device, streamed_denoiser(pipe)
    pipe.remove_all_hooks()
    try:
        yield
    finally:
        if before is None:
            _keep_denoiser(pipe, device)
        else:
            _stream_blocks(pipe, device, before.choose)


def offload_encoders(pipe: Any) -> None:
    """Move parts that are offloaded as a whole, such as text encoders, back to main memory after use."""
    for part in _modules(pipe):
        hook = getattr(part, "_hf_hook", None)
        if isinstance(hook, accelerate.hooks.CpuOffload):
            hook.init_hook(part)
        elif isinstance(hook, Visiting) or (isinstance(hook, Streamed) and not hook.stays):
            hook.release()


def offload_all(pipe: Any) -> None:
    """Move all offloaded parts back to main memory between two pictures."""
    offload_encoders(pipe)
    pipe.maybe_free_model_hooks()


def bytes_on(pipe: Any, device_type: str) -> int:
    """Bytes of weights on the device, including the slots for streamed blocks."""
    hooks = [getattr(part, "_hf_hook", None) for part in _modules(pipe)]
    slots = sum(hook.slot_bytes for hook in hooks if isinstance(hook, Streamed))
    return slots + sum(bytes_of(module, device_type) for module in _modules(pipe))


def streamed_denoiser(pipe: Any) -> Streamed | None:
    """The hook that streams the denoiser's blocks, or None."""
    hook = getattr(denoiser_of(pipe), "_hf_hook", None)
    return hook if isinstance(hook, Streamed) else None


def weights_stay(pipe: Any, rung: str) -> bool:
    """Whether the whole denoiser stays in place on the device, as CUDA graphs and compiled blocks require."""
    streamed = streamed_denoiser(pipe)
    return rung in STATIONARY_RUNGS if streamed is None else not streamed.moved_bytes


def facts(pipe: Any) -> dict[str, Any]:
    """Facts for the recipe: how many blocks stay on the device, and how many are streamed from pageable memory."""
    hook = streamed_denoiser(pipe)
    if hook is None:
        return {}
    found: dict[str, Any] = {"blocks_kept": f"{len(hook.kept)} of {hook.count}"}
    return found | ({"blocks_pageable": hook.pageable} if hook.pageable else {})


def bytes_of(module: torch.nn.Module, device_type: str) -> int:
    """Bytes of a module's weights on the device."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device_type)


def vae_in_fp32(pipe: Any, rung: str, device: str) -> None:
    """Run the VAE in fp32 from now on."""
    hook = getattr(pipe.vae, "_hf_hook", None)
    if rung == "sequential":  # the hooks hold its weights
        accelerate.hooks.remove_hook_from_module(pipe.vae, recurse=True)
        pipe.vae.to(dtype=torch.float32)
        accelerate.cpu_offload(pipe.vae, torch.device(device))
    elif isinstance(hook, Visiting):
        hook.detach_hook(pipe.vae)
        pipe.vae.to(dtype=torch.float32)
        hook.init_hook(pipe.vae)
    else:
        pipe.vae.to(dtype=torch.float32)


def _modules(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def _keep_denoiser(pipe: Any, device: str | torch.device) -> None:
    """Keep the denoiser on the device; copy each other part there when it is called, and free the others there.

    diffusers' ``enable_model_cpu_offload`` moves the denoiser as well, out and in for each picture.
    """
    denoiser = denoiser_of(pipe)
    visitors: list[Visiting] = []
    for part in _modules(pipe):
        if part is not denoiser:
            part.to("cpu")
            visitor = Visiting(device, partial(_release_others, visitors, len(visitors)), _may_gather)
            visitors.append(visitor)
            accelerate.hooks.add_hook_to_module(part, visitor)
    denoiser.to(device)


def _release_others(visitors: list[Visiting], place: int) -> None:
    for other in (*visitors[:place], *visitors[place + 1 :]):
        other.release()


def _stream_blocks(pipe: Any, device: str | torch.device, choose: Any) -> None:
    """Stream the denoiser's blocks that ``choose`` does not keep, and those of text encoders; offload the rest whole.

    ``choose``: see `Streamed`.
    """
    denoiser = denoiser_of(pipe)
    streamed = Streamed(device, choose, may_gather=_may_gather)
    for part in _modules(pipe):
        if part is not denoiser:
            part.to("cpu")
    accelerate.hooks.add_hook_to_module(denoiser, streamed)
    for name, part in pipe.components.items():
        if not isinstance(part, torch.nn.Module) or part is denoiser:
            continue
        hook: Any = Visiting(device, streamed.release, _may_gather)
        if name.startswith("text_encoder"):
            hook = Streamed(device, stays=False, may_gather=_may_gather, before=streamed)
        accelerate.hooks.add_hook_to_module(part, hook)
    if streamed.moved_bytes:
        log.info("the denoiser runs without CUDA graphs and compiled blocks, because %d blocks are streamed",
                 streamed.count - len(streamed.kept))  # fmt: skip
    if streamed.pageable:
        log.warning(
            "%d of %d blocks wait in pageable memory, from which copies are slower", streamed.pageable, streamed.count
        )


def _may_gather(size: int) -> bool:
    """Whether main memory has room to pin ``size`` bytes of a block's weights. A fifth is left for other processes."""
    return free_main_memory() - size > main_memory() * (1 - MAIN_SHARE)


def tile(vae: Any, rung: str) -> None:
    """Let the VAE decode whole, or in tiles of the rung's size. diffusers' default tile is the VAE's training size."""
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
    """Measures the memory of one device: free bytes, and this process' peak."""

    def __init__(self, device: str, limit: int = 0) -> None:
        """``limit``: maximum bytes of a CUDA GPU for this process; 0: no limit."""
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
        """Bytes available to models."""
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
        """Bytes of tensors on the device; 0 where unknown."""
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
        """Peak bytes of tensors on the device since ``start``; 0 where unknown."""
        return torch.cuda.max_memory_allocated(self._device) if self._type == "cuda" else 0


def free_main_memory() -> int:
    """Bytes of main memory available to this process, within the container's limit if there is one."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError, KeyError):  # not on Linux, or no limit
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        # The kernel reclaims file pages, such as those of mapped models, when memory is needed.
        free = min(free, limit - used + int(parts["active_file"]) + int(parts["inactive_file"]))
    return max(free, 0)
