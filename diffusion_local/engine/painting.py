"""One picture by diffusion, in readable steps. Families differ in ``engine.families``, kinds of work in ``kinds``."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.domain import Kind, Params
from diffusion_local.engine import (
    Picture,
    autoencoder,
    faults,
    img2img,
    noise,
    placement,
    previews,
    samplers,
    transfers,
)
from diffusion_local.engine.family import Conditioning
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.img2img import SourceCanvas, StartLatents
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import BadImage, ModelUnavailable, OutOfMemory
from diffusion_local.grammar import schedules
from diffusion_local.messages import message

#: Prompts whose embeddings are kept: about 0.3 MB each for SD, 0.6 MB for SDXL, with their negatives.
PROMPTS_KEPT = 32
#: Channels of a UNet that reads the mask and the masked picture beside the latents.
INPAINT_CHANNELS = 9


def paint(loaded: Loaded, params: Params, steps: Steps, materials: PictureInputs | None) -> Picture:
    """Make the picture with the model in memory. Raises EngineError and whatever ``steps`` is told to raise.

    On a CUDA device it may return before the device has finished; see ``Picture``.
    """
    pipe, family = loaded.pipe, loaded.family
    device = pipe._execution_device
    # 1. What it begins from.
    canvas = opened(params, materials)

    skipped = 0 if canvas is None else img2img.skipped(params.steps, params.strength)

    with transfers.Prelude(device) as prelude:
        # 2. Text to embeddings: of each text, where the prompt changes from step to step.
        texts = texts_of(loaded, params, params.steps - skipped)
        embedded = {pair: embed(loaded, params, *pair) for pair in texts}
        conditioning = embedded[texts[0]]
        placement.step_back(pipe)

        # 3. A scheduler of this picture's own: it keeps state between steps, and an interrupted one keeps it for good.
        scheduler = pipe.scheduler = samplers.scheduler(params.sampler, loaded.scheduler_config, params.schedule)
        transfers.spare_waits(scheduler, device)

        # 4. Noise from the seed; the latents of what it begins from.
        drawn, generator = noise.draw(params, family.shape(pipe, params.width, params.height))
        drawn = drawn.to(device, family.latents_dtype or loaded.dtype)
        start = family.start(pipe, drawn)
        run = family.run(pipe)
        change, said = None, ""
        vae_in_fp32 = partial(placement.vae_in_fp32, pipe, loaded.rung, str(device))
        if reads_mask(pipe):
            run = masked(loaded, canvas, params)
        elif canvas is not None:
            with loaded.forms.lock:
                begun, said = begin(loaded, canvas, drawn, vae_in_fp32)
            change = partial(put_back, loaded, begun, params, skipped * scheduler.order)
            if skipped or params.kind is not Kind.INPAINT:  # a whole repaint begins from noise alone
                start = start.clone()
                img2img.begin_late(scheduler, skipped, partial(fill, loaded, begun, start))
        changing = len(embedded) > 1
        turn = partial(turn_to, loaded, [embedded[pair] for pair in texts], scheduler.order) if changing else None
        steps.follow(scheduler, previewer(loaded, params), skipped, change, turn)
        prelude.end_at(denoiser_of(pipe))

        # 5. Noise to latents, step by step.
        watch = Stopwatch(device)
        latents = run(
            **conditioning,
            **family.call(params),
            num_inference_steps=params.steps,
            latents=start,
            generator=generator,
            output_type="latent",
            callback_on_step_end=steps,
            **({"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]} if changing else {}),
        ).images
        watch.stop()

    # 6. Latents to a picture.
    spread = family.end(pipe, params.width, params.height)(latents)
    decoded = decode(loaded, spread, vae_in_fp32)

    def finish() -> tuple[PIL.Image, dict[str, Any]]:
        try:
            image, said_later = decoded()
        except Exception as error:  # perhaps on another thread, beside the next picture
            problem = faults.named(error, faults.unmakeable)
            problem.transient |= isinstance(problem, OutOfMemory)
            raise problem from error
        if image.size != (params.width, params.height):
            raise BadImage(message("wrong_size", got=f"{image.width}x{image.height}"))
        if canvas is not None:
            image = canvas.paste(image)
        retry = said or said_later
        return image, {"denoise_seconds": round(watch.seconds(), 3)} | ({"vae_retry": retry} if retry else {})

    return Picture(finish, {"scheduler": type(scheduler).__name__})


def decode(loaded: Loaded, latents: torch.Tensor, in_fp32: Callable[[], None]) -> Callable[[], tuple[PIL.Image, str]]:
    """What gives the picture, and a sentence where it took a second try; a device that works by itself goes on."""
    vae, forms = loaded.pipe.vae, loaded.forms
    if loaded.rung not in placement.WHOLE or latents.device.type != "cuda":
        # its parts come and go, or there is nothing to wait for
        decoder = forms.decoder(vae, loaded.dtype) if loaded.rung in placement.WHOLE else None
        found = forms.fused_or_exact(
            decoder, lambda decoder: autoencoder.decode(vae, latents, in_fp32, decoder, forms.refuse_decoder)
        )
        return lambda: found

    def again(problem: str) -> tuple[PIL.Image, str]:
        loaded.checked = False
        image, said = autoencoder.decode(vae, latents, in_fp32)
        if problem and image.getbbox() is not None:  # a picture that is black either way was painted so
            forms.refuse_decoder(f"the VAE gave {problem}")
        return image, said or f"the VAE gave {problem} and was run again"

    with forms.lock:
        return forms.fused_or_exact(
            forms.decoder(vae, loaded.dtype),
            lambda decoder: autoencoder.decode_later(vae, latents, decoder, again, forms.lock),
        )


class Stopwatch:
    """Seconds of work on a device, from now on; a CUDA device is not waited for until they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        if self._events:
            self._events[0].record()
        self._started = self._stopped = time.monotonic()

    def stop(self) -> None:
        if self._events:
            self._events[1].record()
        self._stopped = time.monotonic()

    def seconds(self) -> float:
        if not self._events:
            return self._stopped - self._started
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000


def opened(params: Params, materials: PictureInputs | None) -> SourceCanvas | None:
    """The pictures that the params name, at the job's size; None for text to image."""
    if not params.source:
        return None
    if materials is None:
        raise ModelUnavailable(message("no_home_sources"))
    mask = materials.source(params.mask) if params.mask else None
    return img2img.canvas(materials.source(params.source), mask, (params.width, params.height))


def texts_of(loaded: Loaded, params: Params, steps: int) -> list[tuple[str, str]]:
    """(prompt, negative) at each step that is made. They are as written for a family that cannot change them."""
    if loaded.family.turned is None:
        return [(params.prompt, params.negative)]
    both = (schedules.texts(text, steps) for text in (params.prompt, params.negative))
    return list(zip(*both, strict=True))


def turn_to(
    loaded: Loaded, each: list[Conditioning], order: int, index: int, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The embeddings of the step that follows a call of the denoiser, where they are others."""
    now, after = (each[min(call // order, len(each) - 1)] for call in (index, index + 1))
    if after is now or loaded.family.turned is None:
        return {}
    like = tensors["prompt_embeds"]
    return {name: tensor.to(like) for name, tensor in loaded.family.turned(after).items()}


def embed(loaded: Loaded, params: Params, prompt: str, negative: str) -> Conditioning:
    """A prompt's embeddings, from the cache if they were used lately; without guidance no negative is read."""
    guided = loaded.family.guided(loaded.pipe, params.guidance)
    key = (prompt, negative if guided else None, params.clip_skip)
    cached = (*key, loaded.loras, loaded.words)
    if cached not in loaded.prompts:
        loaded.prompts[cached] = loaded.family.embed(loaded.pipe, *key)
    loaded.prompts.move_to_end(cached)
    if len(loaded.prompts) > PROMPTS_KEPT:
        loaded.prompts.popitem(last=False)
    return loaded.prompts[cached]


def begin(
    loaded: Loaded, canvas: SourceCanvas, drawn: torch.Tensor, in_fp32: Callable[[], None]
) -> tuple[StartLatents, str]:
    """The source's latents; and a sentence where they took a second try, else an empty string."""
    pipe, pixels = loaded.pipe, canvas.pixels().to(drawn.device)
    encoded, said = autoencoder.encode_safely(pipe.vae, lambda: loaded.family.encode(pipe, pixels), in_fp32)
    latents = encoded.to(drawn)
    mask = canvas.latent_mask((latents.shape[-2], latents.shape[-1]))
    return StartLatents(latents, drawn, None if mask is None else mask.to(drawn)), said


def fill(loaded: Loaded, begun: StartLatents, start: torch.Tensor) -> None:
    """Write the noised source into the tensor that the pipeline was handed."""
    pipe, family = loaded.pipe, loaded.family
    latents = img2img.noised(pipe.scheduler, begun.latents, begun.noise, pipe.scheduler.timesteps[:1])
    if family.scales_start:
        latents = latents / pipe.scheduler.init_noise_sigma
    start.copy_(family.start(pipe, latents))


def put_back(
    loaded: Loaded, begun: StartLatents, params: Params, first: int, index: int, latents: torch.Tensor
) -> torch.Tensor:
    pipe, family = loaded.pipe, loaded.family
    spread = family.unpack(pipe, params.width, params.height)(latents)
    return family.pack(pipe, begun.put_back(pipe.scheduler, first + index, spread).to(latents.dtype))


def previewer(loaded: Loaded, params: Params) -> Callable[[torch.Tensor], PIL.Image] | None:
    """Draws latents, or None where the model's cannot be drawn. It keeps no model: a preview may wait in a thread."""
    unpack = loaded.family.unpack(loaded.pipe, params.width, params.height)
    plain, factors = loaded.family.plain(loaded.pipe), loaded.factors
    return None if factors is None else lambda latents: previews.draw(plain(unpack(latents)), factors)


def reads_mask(pipe: Any) -> bool:
    """Whether its UNet was made for inpainting."""
    unet = getattr(pipe, "unet", None)
    return unet is not None and unet.config.in_channels == INPAINT_CHANNELS


def masked(loaded: Loaded, canvas: SourceCanvas | None, params: Params) -> Callable[..., Any]:
    """diffusers' own pipeline for such a UNet, with the same parts. Raises ModelUnavailable without a mask."""
    pipeline = loaded.family.inpainting
    if canvas is None or canvas.mask is None or pipeline is None:
        raise ModelUnavailable(message("inpaint_only", model=loaded.model.id))
    pipe = pipeline(loaded.pipe)
    pipe.set_progress_bar_config(disable=True)
    strength = max(params.strength, 1 / params.steps)
    return partial(pipe, image=canvas.source, mask_image=canvas.mask, strength=strength)
