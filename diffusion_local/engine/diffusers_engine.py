"""The engine that runs diffusers. Several models in memory while there is room, text to image."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffusion_local.catalog import Model
from diffusion_local.domain import Fit, Params
from diffusion_local.engine import (
    OnProgress,
    OnStep,
    Picture,
    autoencoder,
    faults,
    placement,
    precision,
    samplers,
    weights,
)
from diffusion_local.engine.devices import Device
from diffusion_local.engine.families import Conditioning
from diffusion_local.engine.memory import LADDERS, Choice, choose, estimate
from diffusion_local.engine.placement import Gauge
from diffusion_local.engine.rack import Loaded, Rack
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import BadImage, ModelUnavailable

#: Prompts whose embeddings are kept: about 0.3 MB each for SD, 0.6 MB for SDXL, with their negatives.
PROMPTS_KEPT = 32

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers|huggingface_hub)\b")


class DiffusersEngine:
    """Pipelines of diffusers on one device, with torch's own attention (SDPA) but for the last rung."""

    def __init__(self, device: Device, threads: int = 0, numbers: str = "auto", memory_limit: int = 0) -> None:
        """``threads`` limits torch on the CPU, ``memory_limit`` what it takes of a GPU (bytes); 0 leaves it to torch.

        ``numbers`` is the setting ``precision``. Raises UserError for a precision that the device does not have.
        """
        precision.check(numbers, device.type)
        self._device = device
        self._gauge = Gauge(device.torch, memory_limit)
        self._rack = Rack(device, numbers, self._gauge)
        if threads:
            torch.set_num_threads(threads)

    @property
    def device(self) -> str:
        if self._device.type != "cpu":
            return self._device.words
        threads = torch.get_num_threads()
        return f"{self._device.words} ({threads} thread{'s' * (threads > 1)})"

    @property
    def ladder(self) -> tuple[str, ...]:
        return LADDERS[self._device.type]

    @property
    def loaded(self) -> str:
        return self._loaded.model.id if self._loaded else ""

    def plan(self, model: Model, params: Params, learned: Sequence[Fit], wanted: str = "") -> Choice:
        need = estimate(weights.read(model.path), self._rack.dtype_of(model).itemsize, params.width, params.height)
        return choose(self.ladder, model.id, need, self.free(), params, learned, wanted)

    def free(self) -> int:
        return self._rack.free()

    def load(self, model: Model, choice: Choice | None = None, on_progress: OnProgress | None = None) -> None:
        self._rack.load(model, choice or Choice(self.ladder[0]), on_progress or (lambda share: None))

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        if self._loaded is None or self._loaded.model.id != params.model:
            raise ModelUnavailable(f"Model {params.model!r} is not loaded.")
        steps = Steps(on_step, self._loaded.factors)
        self._gauge.start()
        try:
            with torch.no_grad():
                picture = self._generate(self._loaded, params, steps)
                if peak := self._gauge.peak():
                    picture.facts["peak_bytes"] = peak - self._rack.bytes_of_others()
                return picture
        except Exception as error:
            if error is steps.raised:
                raise
            problem = faults.named(error, faults.unmakeable)
        finally:
            if self._loaded is not None:
                placement.rest(self._loaded.pipe)
        self._gauge.collect()
        raise problem

    def spare(self) -> bool:
        return self._rack.spare()

    def unload(self) -> None:
        self._rack.clear()

    @property
    def _loaded(self) -> Loaded | None:
        return self._rack.current

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
        noise = torch.randn(shape, generator=generator).to(self._device.torch, loaded.dtype)

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
        facts = self._facts(loaded) | {"denoise_seconds": round(denoise_seconds, 3)}
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

    def _facts(self, loaded: Loaded) -> dict[str, Any]:
        pipe = loaded.pipe
        return {
            "engine": "diffusers",
            "device": self.device,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "vae_dtype": str(pipe.vae.dtype).removeprefix("torch."),
            "scheduler": type(pipe.scheduler).__name__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device.torch)
