"""Pictures by diffusion, in readable steps. Families differ in ``engine.families``, kinds of work in ``kinds``."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.domain import Kind, Params
from diffusion_local.engine import (
    Part,
    Pass,
    Picture,
    autoencoder,
    faults,
    img2img,
    noise,
    placement,
    previews,
    samplers,
    seat,
    transfers,
)
from diffusion_local.engine.family import Conditioning
from diffusion_local.engine.graphs import denoiser_of
from diffusion_local.engine.holding import Paused, go_on
from diffusion_local.engine.img2img import SourceCanvas, StartLatents
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.steps import Interrupted, Steps
from diffusion_local.errors import BadImage, DeviceLost, ModelUnavailable, OutOfMemory
from diffusion_local.grammar import schedules
from diffusion_local.messages import message

#: Prompts whose embeddings are kept: about 0.3 MB each for SD, 0.6 MB for SDXL, with their negatives.
PROMPTS_KEPT = 64
#: Channels of a UNet that reads the mask and the masked picture beside the latents.
INPAINT_CHANNELS = 9


@dataclass(slots=True)
class Sketch:
    """One picture of a pass before its first step. ``texts`` are (prompt, negative) at each step."""

    texts: list[tuple[str, str]]
    embedded: dict[tuple[str, str], Conditioning]
    noise: torch.Tensor
    generator: torch.Generator

    def at(self, step: int) -> tuple[str, str]:
        return self.texts[min(step, len(self.texts) - 1)]

    @property
    def form(self) -> tuple[Any, ...]:
        """Equal for those that fit into one loop. A prompt whose length changes on the way has one of its own."""
        found = {shapes(each) for each in self.embedded.values()}
        return (tuple(self.noise.shape), *found, *[id(self)] * (len(found) > 1))


def paint(loaded: Loaded, crew: Pass, steps: Steps, materials: PictureInputs | None) -> None:
    """Make the pictures of a pass with the model in memory. See ``Engine.run``.

    On a CUDA device it may return before the device has finished; see ``Picture``. Raises Interrupted and EngineError.
    """
    pipe, family = loaded.pipe, loaded.family
    device, params = pipe._execution_device, crew.parts[0].params
    paused = crew.held if isinstance(crew.held, Paused) else None
    together = family.together and not reads_mask(pipe)
    # 1. What the pictures begin from.
    canvases = [opened_for(part, materials) for part in crew.live][:1]
    if not crew.live:
        raise Interrupted
    canvas = canvases[0]
    skipped = 0 if canvas is None else img2img.skipped(params.steps, params.strength)

    with transfers.Prelude(device) as prelude:
        # 2. Text to embeddings: of each text, where the prompt changes from step to step. Noise from the seeds.
        sketches = {part: sketch for part in crew.live if (sketch := sketched(loaded, part, params.steps - skipped))}
        if not sketches:
            raise Interrupted
        if paused is None:
            seat_alike(crew, sketches, together)
        places = at_places(crew, sketches, lambda part: drawn(loaded, part.params))
        embedded = each_step(places)
        placement.step_back(pipe)

        # 3. A scheduler of this pass's own: it keeps state between steps, and an interrupted one keeps it for good.
        scheduler = pipe.scheduler = samplers.scheduler(params.sampler, loaded.scheduler_config, params.schedule)
        transfers.spare_waits(scheduler, device)

        # 4. The latents that it begins with.
        noise_drawn = torch.cat([each.noise for each in places]).to(device, family.latents_dtype or loaded.dtype)
        generators = [each.generator for each in places]
        start = family.start(pipe, noise_drawn)
        run = family.run(pipe)
        change, said = None, ""
        vae_in_fp32 = partial(placement.vae_in_fp32, pipe, loaded.rung, str(device))
        if reads_mask(pipe):
            run = masked(loaded, canvas, params)
        elif canvas is not None:
            with loaded.forms.lock:
                begun, said = begin(loaded, canvas, noise_drawn, vae_in_fp32)
            change = partial(put_back, loaded, begun, params, skipped * scheduler.order)
            # a whole repaint begins from noise alone
            if paused is None and (skipped or params.kind is not Kind.INPAINT):
                start = start.clone()
                img2img.begin_late(scheduler, skipped, partial(fill, loaded, begun, start))
        if paused is not None:
            start = family.start(pipe, family.unpack(pipe, params.width, params.height)(paused.latents)).clone()
            for generator, state in zip(generators, paused.generators, strict=True):
                generator.set_state(state)
            go_on(scheduler, paused, skipped * scheduler.order, family.scales_start)
        before = paused.calls if paused else 0
        turn = partial(turn_to, loaded, embedded, scheduler.order) if len(embedded) > 1 else None
        hold = partial(Paused.at, scheduler=scheduler, generators=generators) if together else None
        steps.follow(scheduler, previewer(loaded, params), skipped, change, turn, hold, before)
        steps.keep_pace(device)
        crew.held = None
        prelude.end_at(denoiser_of(pipe))

        # 5. Noise to latents, step by step.
        watch = Stopwatch(device)
        latents = run(
            **embedded[min(before // scheduler.order, len(embedded) - 1)],
            **family.call(params),
            num_inference_steps=params.steps,
            latents=start,
            generator=generators if len(generators) > 1 else generators[0],
            output_type="latent",
            callback_on_step_end=steps,
            **({"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]} if turn else {}),
        ).images
        watch.stop()

    # 6. Latents to pictures, one by one.
    spread = family.end(pipe, params.width, params.height)(latents)
    facts = {"scheduler": type(scheduler).__name__}
    for part in crew.live:
        with spared(part):
            decoded = decode(loaded, spread[part.place : part.place + 1], vae_in_fp32)
            part.made = Picture(
                partial(finished, part.params, decoded, canvas, watch, said), facts | crew.place_of(part)
            )


def finished(
    params: Params,
    decoded: Callable[[], tuple[PIL.Image, str]],
    canvas: SourceCanvas | None,
    watch: "Stopwatch",
    said: str,
) -> tuple[PIL.Image, dict[str, Any]]:
    """The picture and what is known once the device has made it. Raises EngineError."""
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


@contextmanager
def spared(part: Part) -> Iterator[None]:
    """What goes wrong inside ends this part only, but for what concerns every part of the pass."""
    try:
        yield
    except Exception as error:
        problem = faults.named(error, faults.unmakeable)
        if isinstance(problem, OutOfMemory | DeviceLost):
            raise problem from error
        part.problem = problem


def opened_for(part: Part, materials: PictureInputs | None) -> SourceCanvas | None:
    with spared(part):
        return opened(part.params, materials)
    return None


def sketched(loaded: Loaded, part: Part, steps: int) -> Sketch | None:
    """None where it cannot be made, which ends the part."""
    with spared(part):
        texts = texts_of(loaded, part.params, steps)
        embedded = {pair: embed(loaded, part.params, *pair) for pair in texts}
        return Sketch(texts, embedded, *drawn(loaded, part.params))
    return None


def drawn(loaded: Loaded, params: Params) -> tuple[torch.Tensor, torch.Generator]:
    return noise.draw(params, loaded.family.shape(loaded.pipe, params.width, params.height))


def seat_alike(crew: Pass, sketches: dict[Part, Sketch], together: bool) -> None:
    """Give the parts of a pass that begins their places; those that are unlike the first are left over."""
    first, *others = sketches
    beside = [each for each in others if together and sketches[each].form == sketches[first].form]
    ended = [part for part in crew.parts if not part.live]
    crew.left = [part for part in others if part not in beside] + crew.left
    crew.parts = [first, *beside]
    seat(crew)
    crew.parts += ended


def at_places(
    crew: Pass,
    sketches: dict[Part, Sketch],
    again: Callable[[Part], tuple[torch.Tensor, torch.Generator]],
) -> list[Sketch]:
    """A sketch for each place of a pass. Where there is no part left it is another one's, with its own generator."""
    there = {part.place: sketch for part, sketch in sketches.items() if part in crew.live}
    model, copied = next((part, sketch) for part, sketch in sketches.items() if part in crew.live)
    return [
        there[place] if place in there else replace(copied, generator=again(model)[1]) for place in range(crew.size)
    ]


def each_step(places: Sequence[Sketch]) -> list[Conditioning]:
    """What the pipeline is told at each step, or once if that never changes. Equal texts give the same object."""
    known: dict[tuple[tuple[str, str], ...], Conditioning] = {}
    found = []
    for step in range(max(len(each.texts) for each in places)):
        pairs = tuple(each.at(step) for each in places)
        if pairs not in known:
            known[pairs] = stacked([each.embedded[pair] for each, pair in zip(places, pairs, strict=True)])
        found.append(known[pairs])
    return found if len(known) > 1 else found[:1]


def stacked(each: Sequence[Conditioning]) -> Conditioning:
    """The conditionings of several pictures as that of one batch."""
    if len(each) == 1:
        return each[0]

    def together(values: list[Any]) -> Any:
        if torch.is_tensor(values[0]):
            return torch.cat(values)
        return [item for value in values for item in value] if isinstance(values[0], list) else values[0]

    return {name: together([one[name] for one in each]) for name in each[0]}


def shapes(conditioning: Conditioning) -> tuple[Any, ...]:
    """What of a conditioning must be equal for ``stacked``; lists hold a tensor of any length for each picture."""
    return tuple(
        (name, tuple(value.shape) if torch.is_tensor(value) else type(value)) for name, value in conditioning.items()
    )


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
    both = (schedules.prompt_per_step(text, steps) for text in (params.prompt, params.negative))
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
