"""The engine that runs diffusers. One model in memory, text to image."""

import gc
import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffusion_local.catalog import Model
from diffusion_local.domain import Params
from diffusion_local.engine import OnStep, Picture, autoencoder, previews, samplers, single_file
from diffusion_local.engine.devices import Device
from diffusion_local.engine.families import FAMILIES, Conditioning, Family
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import BadImage, DeviceLost, EngineError, ModelUnavailable, OutOfMemory
from diffusion_local.models import whole

#: Prompts whose embeddings are kept: about 0.3 MB each for SD, 0.6 MB for SDXL, with their negatives.
PROMPTS_KEPT = 32

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers|huggingface_hub)\b")


@dataclass(slots=True)
class Loaded:
    """The model in memory and what was learned about it."""

    model: Model
    family: Family
    pipe: Any
    scheduler_config: dict[str, Any]
    factors: previews.Factors | None
    load_seconds: float | None
    prompts: OrderedDict[tuple[str, str | None], Conditioning] = field(default_factory=OrderedDict)


class DiffusersEngine:
    """Pipelines of diffusers on one device, all in its memory, with torch's own attention (SDPA)."""

    def __init__(self, device: Device, threads: int = 0) -> None:
        """``threads`` limits torch on the CPU; 0 leaves it to torch."""
        self._device = device
        self._dtype: torch.dtype = getattr(torch, device.dtype)
        self._loaded: Loaded | None = None
        if threads:
            torch.set_num_threads(threads)

    @property
    def device(self) -> str:
        if self._device.type != "cpu":
            return self._device.words
        threads = torch.get_num_threads()
        return f"{self._device.words} ({threads} thread{'s' * (threads > 1)})"

    @property
    def loaded(self) -> str:
        return self._loaded.model.id if self._loaded else ""

    def load(self, model: Model) -> None:
        if self._loaded and (self._loaded.model.id, self._loaded.model.path) == (model.id, model.path):
            return
        if not model.ready:
            raise ModelUnavailable(f"Model {model.id!r} cannot be loaded. {model.problem}")
        if model.family not in FAMILIES:
            raise ModelUnavailable(f"Model {model.id!r} is of a family that is not supported: {model.family}.")
        whole.check(model.path)
        self.unload()
        problem: EngineError
        try:
            self._loaded = self._load(model)
            return
        except Exception as error:
            problem = self._named(error, partial(unloadable, model))
        self.unload()
        raise problem

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        if self._loaded is None or self._loaded.model.id != params.model:
            raise ModelUnavailable(f"Model {params.model!r} is not loaded.")
        steps = Steps(on_step, self._loaded.factors)
        try:
            with torch.no_grad():
                return self._generate(self._loaded, params, steps)
        except Exception as error:
            if error is steps.raised:
                raise
            problem = self._named(error, unmakeable)
        self._free()
        raise problem

    def unload(self) -> None:
        self._loaded = None
        self._free()

    def _load(self, model: Model) -> Loaded:
        started = time.monotonic()
        family = FAMILIES[model.family]
        pipe = single_file.load(model, self._dtype) if model.file else family.load(model.folder, self._dtype)
        pipe.to(self._device.torch)
        pipe.set_progress_bar_config(disable=True)
        return Loaded(
            model=model,
            family=family,
            pipe=pipe,
            scheduler_config=dict(pipe.scheduler.config),
            factors=previews.fit(pipe.vae),
            load_seconds=time.monotonic() - started,
        )

    def _generate(self, loaded: Loaded, params: Params, steps: Steps) -> Picture:
        pipe = loaded.pipe
        # 1. Text to embeddings.
        conditioning = self._embed(loaded, params)

        # 2. A scheduler of this picture's own: it keeps state between steps, and an interrupted one keeps it for good.
        pipe.scheduler = samplers.scheduler(params.sampler, loaded.scheduler_config)
        steps.follow(pipe.scheduler)

        # 3. Noise from the seed, on the CPU in fp32: the same on every device and in every dtype.
        generator = torch.Generator().manual_seed(params.seed)
        scale = pipe.vae_scale_factor
        shape = (1, pipe.unet.config.in_channels, params.height // scale, params.width // scale)
        noise = torch.randn(shape, generator=generator).to(self._device.torch, self._dtype)

        # 4. Noise to latents, step by step.
        started = time.monotonic()
        latents = pipe(
            **conditioning,
            width=params.width,
            height=params.height,
            num_inference_steps=params.steps,
            guidance_scale=params.guidance,
            latents=noise,
            generator=generator,
            output_type="latent",
            callback_on_step_end=steps,
        ).images
        self._synchronize()
        denoise_seconds = time.monotonic() - started

        # 5. Latents to a picture.
        image = autoencoder.decode(pipe.vae, latents)
        if image.size != (params.width, params.height):
            raise BadImage(f"The picture came out {image.width}x{image.height} instead of the size asked for.")

        # 6. The facts of its making.
        facts = self._facts(pipe) | {"denoise_seconds": round(denoise_seconds, 3)}
        if loaded.load_seconds is not None:
            facts["load_seconds"] = round(loaded.load_seconds, 3)
            loaded.load_seconds = None
        return Picture(image, facts)

    def _embed(self, loaded: Loaded, params: Params) -> Conditioning:
        """The prompt's embeddings, from the cache if they were used lately. Guidance of 1 or less needs no negative."""
        guided = params.guidance > 1 and loaded.pipe.unet.config.time_cond_proj_dim is None
        key = (params.prompt, params.negative if guided else None)
        if key not in loaded.prompts:
            loaded.prompts[key] = loaded.family.embed(loaded.pipe, *key)
        loaded.prompts.move_to_end(key)
        if len(loaded.prompts) > PROMPTS_KEPT:
            loaded.prompts.popitem(last=False)
        return loaded.prompts[key]

    def _facts(self, pipe: Any) -> dict[str, Any]:
        return {
            "engine": "diffusers",
            "device": self.device,
            "dtype": self._device.dtype,
            "vae_dtype": str(pipe.vae.dtype).removeprefix("torch."),
            "scheduler": type(pipe.scheduler).__name__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def _named(self, error: Exception, otherwise: Callable[[Exception], EngineError]) -> EngineError:
        """The engine's own error for one of the libraries'; frames are cleared, as they hold tensors."""
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, EngineError):
            return error
        problem = OutOfMemory() if is_out_of_memory(error) else DeviceLost() if is_lost(error) else otherwise(error)
        problem.__cause__ = error
        return problem

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device.torch)

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def is_lost(error: Exception) -> bool:
    """After an error of the driver every further call in this process fails, too."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("CUDA error", "HIP error"))


def unloadable(model: Model, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"Model {model.id!r} cannot be loaded: {_first_line(error).replace(str(model.path), model.path.name)} "
        "If the folder is complete, copy or download the model again."
    )


def unmakeable(error: Exception) -> EngineError:
    return EngineError(f"The picture could not be made: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".") + "."
