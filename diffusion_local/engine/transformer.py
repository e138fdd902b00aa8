"""Shared by families whose denoiser is a transformer.

Pipelines of flow-matching models take latents unscaled by an initial sigma.
"""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from diffusion_local.engine.family import Change, Conditioning, Parts, sized_and_guided
from diffusion_local.options.table import Params


def pipeline_loader(pipeline: Any) -> Any:
    def load(folder: Path, dtype: torch.dtype, parts: Parts) -> Any:
        index = index_of(folder)
        left_out = {name: None for name, spec in index.items() if spec == [None, None]}
        modules = {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
        headless = {name: part for name, part in modules.items() if type(part).__name__ != index[name][1]}
        components = left_out | parts | dict.fromkeys(headless)  # it takes parts of the classes in its index only
        pipe = pipeline.from_pretrained(folder, **components, dtype=dtype, local_files_only=True, use_safetensors=True)
        pipe.register_modules(**headless)
        return pipe

    return load


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return index


def uses_guidance(pipe: Any, guidance: float) -> bool:
    return guidance > 1


def never_uses_guidance(pipe: Any, guidance: float) -> bool:
    """For models where guidance is an input, or distilled into the model."""
    return False


def latent_shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels, height // scale, width // scale)


def packed_latent_shape(pipe: Any, width: int, height: int) -> tuple[int, ...]:
    """Latent shape of pipelines that pack 2 x 2 patches into channels."""
    scale, config = pipe.vae_scale_factor, pipe.transformer.config
    channels = config.out_channels if reads_mask(pipe) else config.in_channels
    return (1, channels // 4, height // scale, width // scale)


def reads_mask(pipe: Any) -> bool:
    """Whether the transformer reads a mask and the masked picture beside the latents (FLUX Fill)."""
    transformer: Any = getattr(pipe, "transformer", None)
    if type(transformer).__name__ != "FluxTransformer2DModel":
        return False
    own = transformer.config.out_channels
    return bool(own) and own < transformer.config.in_channels


def pack(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """1 x C x h x w to 1 x (h/2 * w/2) x 4C: one row per 2 x 2 patch."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(pipe: Any, width: int, height: int) -> Change:
    """The inverse of ``pack`` for a picture of this size in pixels."""
    _, channels, rows, columns = packed_latent_shape(pipe, width, height)

    def spread(latents: torch.Tensor) -> torch.Tensor:
        patches = latents.view(-1, rows // 2, columns // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(-1, channels, rows, columns)

    return spread


#: The fields of an ``EngineFamily`` whose pipeline takes, denoises and returns packed latents.
PACKED: dict[str, Any] = {
    "latent_shape": packed_latent_shape,
    "start": pack,
    "pack": pack,
    "unpack": unpack,
    "unpack_output": unpack,
}


def masked_embeds(pipe: Any, prompt: str, negative: str | None, **options: Any) -> Conditioning:
    """Conditioning of pipelines that return attention masks with their embeddings."""
    positive, mask, against, mask_against = pipe.encode_prompt(
        prompt, negative is not None, negative_prompt=negative or "", device=pipe._execution_device, **options
    )
    return {
        "prompt_embeds": positive,
        "prompt_attention_mask": mask,
        "negative_prompt": None,  # its default, an empty text, does not go with embeddings
        "negative_prompt_embeds": against,
        "negative_prompt_attention_mask": mask_against,
    }


def told_of_steps(pipe: Any, run: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A pipeline without a step callback, or with the older one, as one with a ``callback_on_step_end``.

    Steps are observed through the scheduler's ``step``, half steps of second-order samplers included. ``run``: the
    callable to denoise with, if it is not the pipeline itself.
    """

    def painted(callback_on_step_end: Any, **arguments: Any) -> Any:
        scheduler, done = pipe.scheduler, 0
        step, set_timesteps = scheduler.step, scheduler.set_timesteps

        @wraps(set_timesteps)  # pipelines read the signature
        def counted(*args: Any, **kwargs: Any) -> None:
            set_timesteps(*args, **kwargs)
            if not hasattr(type(pipe), "num_timesteps"):  # otherwise the pipeline counts itself
                pipe.num_timesteps = len(scheduler.timesteps)

        @wraps(step)
        def step_with_callback(output: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal done
            latents, *rest = step(output, timestep, *args, **kwargs)
            changed = callback_on_step_end(pipe, done, timestep, {"latents": latents})
            done += 1
            return (changed.get("latents", latents), *rest)

        scheduler.step, scheduler.set_timesteps = step_with_callback, counted
        return (run or pipe)(**arguments)

    return painted


def unbinned(params: Params) -> dict[str, Any]:
    """Call arguments that disable resolution binning, which would change the size."""
    return sized_and_guided(params) | {"use_resolution_binning": False}
