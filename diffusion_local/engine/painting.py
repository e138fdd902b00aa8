"""Makes pictures by diffusion, from inputs to decoded pictures. Families differ only in ``engine.families``."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import (
    Finish,
    Part,
    Pass,
    Picture,
    autoencoder,
    conditioning,
    controls,
    faults,
    img2img,
    inputs,
    ip_adapters,
    placement,
    preview_decoders,
    regional,
    samplers,
)
from diffusion_local.engine.conditioning import (
    assign_compatible,
    by_place,
    conditioning_per_step,
    draw_noise,
    next_prompt,
    prepare,
)
from diffusion_local.engine.faults import ending_only
from diffusion_local.engine.graphs import STATIONARY_RUNGS, denoiser_of
from diffusion_local.engine.img2img import SourceCanvas, StartLatents
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import LATENT, Enlarge, HeldLoop, Loop, Mosaic, interpolated, loops_of, resume
from diffusion_local.engine.steps import Interrupted, Previewer, Steps
from diffusion_local.errors import BadImage, ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.models.folders import INPAINT_CHANNELS
from diffusion_local.options.hires import Size
from diffusion_local.options.inpaint import CONTENTS
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind


def paint(loaded: Loaded, crew: Pass, steps: Steps, materials: PictureInputs | None, enlarge: Enlarge) -> None:
    """Make the pictures of a pass with the loaded model; see ``Engine.run``.

    On a CUDA device it may return before the device has finished; see ``Picture``. Raises Interrupted and EngineError.
    """
    paused = crew.held if isinstance(crew.held, HeldLoop) else None
    # 1. The source picture and mask, if any.
    canvases = [open_canvas_of(part, materials) for part in crew.live][:1]
    if not crew.live:
        raise Interrupted
    loops = loops_of(crew.parts[0].params)
    work = Work(loaded, crew, steps, materials, canvases[0], enlarge, loops)
    if paused is not None and paused.mosaic:
        work.mosaic = Mosaic.of_tensors(paused.mosaic, crew.size)
    # 2. The loops, from noise, from the source, or from the result of the previous loop.
    for loop in work.loops:
        if paused is None or loop.number >= paused.loop:
            work.run(loop, paused)
            paused = None
    # 3. Latents to pictures, one at a time.
    for part in crew.live:
        with ending_only(part):
            part.made = Picture(work.finish(part), work.facts | crew.place_of(part))


@dataclass(slots=True)
class Work:
    """State of a running pass. ``latents``: result of its latest loop, in the pipeline's output layout; ``mosaic``: its
    pictures while a second pass repaints them tile by tile.
    """

    loaded: Loaded
    crew: Pass
    steps: Steps
    materials: PictureInputs | None
    canvas: SourceCanvas | None
    enlarge: Enlarge
    loops: list[Loop]
    latents: torch.Tensor | None = None
    mosaic: Mosaic | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    watches: list["Stopwatch"] = field(default_factory=list)
    note: str = ""

    def run(self, loop: Loop, paused: HeldLoop | None) -> None:
        """Run a loop, or the rest of a suspended one."""
        self.latents = self.denoise(loop, paused)
        if loop.is_tile:
            assert self.mosaic is not None
            self.mosaic.paste(loop, self.decoded(loop))

    def denoise(self, loop: Loop, paused: HeldLoop | None) -> torch.Tensor:
        """Denoise, and return latents in the pipeline's output layout. Raises Interrupted if no part is left."""
        loaded, crew, steps, params = self.loaded, self.crew, self.steps, loop.params
        pipe, family, device = loaded.pipe, loaded.family, loaded.pipe._execution_device
        together = family.together and not reads_mask(pipe)
        with conditioning.AsyncCopies(device) as prelude:
            # 1. Prompt embeddings, one for each text if the prompt changes between steps. Noise from the seeds.
            first = loop is self.loops[0]
            later = self.loops[1:2] if first else []  # the prompts of all tiles are the same
            sketches = {part: found for part in crew.live if (found := prepare(loaded, part, loop, later))}
            if not sketches:
                raise Interrupted
            if paused is None and first:
                assign_compatible(crew, sketches, together)
            places = by_place(crew, sketches, lambda part: draw_noise(loaded, part.params, loop))
            embedded = conditioning_per_step(places)
            regions = regional.regions_of(loaded, loop, self.canvas, steps, len(places))
            placement.offload_encoders(pipe)

            # 2. A new scheduler for each loop: schedulers keep state between steps, also after an interruption.
            scheduler = pipe.scheduler = samplers.scheduler(params.sampler, loaded.scheduler_config, params.schedule)
            conditioning.avoid_synchronisation(scheduler, device)

            # 3. The initial latents.
            noise_drawn = torch.cat([each.noise for each in places]).to(device, family.latents_dtype or loaded.dtype)
            generators = [each.generator for each in places]
            start = family.start(pipe, noise_drawn)
            run, change = inputs.denoising_pipeline(loaded, loop), None
            if reads_mask(pipe):
                run = inpainting_call(loaded, self.canvas, params)
            elif (self.canvas is not None or loop.box) and (paused is None or params.kind is Kind.INPAINT):
                begun = self.begun(loop, noise_drawn)
                if begun.mask is not None:
                    change = partial(restore_source, loaded, begun, params, loop.skipped * scheduler.order)
                # inpainting at full strength starts from noise only
                if paused is None and (loop.skipped or params.kind is not Kind.INPAINT or begun.soft):
                    start = start.clone()
                    img2img.skip_first_steps(scheduler, loop.skipped, partial(fill_start, loaded, begun, start))
            if paused is not None:
                start = family.start(pipe, family.unpack(pipe, params.width, params.height)(paused.latents)).clone()
                for generator, state in zip(generators, paused.generators, strict=True):
                    generator.set_state(state)
                resume(scheduler, paused, loop.skipped * scheduler.order, family.scales_start)
            before = paused.calls if paused else 0
            turn = partial(next_prompt, loaded, embedded, scheduler.order) if len(embedded) > 1 else None
            capture = partial(HeldLoop.capture, loop.number, self.mosaic, scheduler, generators)
            aside = partial(capture, weights=loaded.weights_name) if together else None
            steps.follow(loop, scheduler, self.previewer(loop), change, turn, aside, before)
            guides = controls.guides_of(loaded, loop, self.materials, self.canvas, steps, before)
            steps.keep_pace(device)
            crew.held = None
            prelude.end_at(denoiser_of(pipe))

            # 4. Noise to latents, step by step.
            watch = Stopwatch(device)
            run = ip_adapters.adapted(loaded, loop, self.canvas, run)
            with family.fill(pipe, self.canvas), guides.around(pipe), regions.around(pipe):
                latents: torch.Tensor = run(
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
        self.watches.append(watch)
        self.facts["scheduler"] = type(scheduler).__name__
        return latents

    def begun(self, loop: Loop, noise_drawn: torch.Tensor) -> StartLatents:
        """Start latents of a loop: from the source, or from the result of the first pass."""
        if loop.box is None:
            assert self.canvas is not None
            return self.encoded([self.canvas.source], noise_drawn, self.canvas)
        upscaler, before = loop.params.hires_upscaler, self.steps.latents
        if upscaler in LATENT and before is not None and not loop.is_tile:
            first = self.loops[0].params
            spread = self.loaded.family.unpack(self.loaded.pipe, first.width, first.height)(before)
            return StartLatents(interpolated(spread, upscaler, noise_drawn), noise_drawn, None)
        if self.mosaic is None:
            made = self.decoded(self.loops[0]) if self.latents is not None else self.sources(len(noise_drawn))
            large = [self.enlarge(each, upscaler, loop.whole) for each in made]
            if not loop.is_tile:
                return self.encoded(large, noise_drawn)
            self.mosaic = Mosaic(large)
        return self.encoded(self.mosaic.crops(loop), noise_drawn)

    def sources(self, count: int) -> list[PIL.Image]:
        """The source picture at its full size, once per place of the pass."""
        assert self.canvas is not None
        assert self.canvas.whole is not None
        return [self.canvas.whole] * count

    def encoded(
        self, pictures: Sequence[PIL.Image], noise_drawn: torch.Tensor, canvas: SourceCanvas | None = None
    ) -> StartLatents:
        """Encode RGB pictures to latents: one picture for all places of the pass, or one per place."""
        pipe, family, encodings = self.loaded.pipe, self.loaded.family, []
        with self.loaded.forms.lock:
            for picture in pictures:
                pixels = SourceCanvas(picture).pixels().to(noise_drawn.device)
                encode = partial(family.encode, pipe, pixels)
                latents, note = autoencoder.encode_safely(pipe.vae, encode, self.in_fp32)
                encodings.append(latents.to(noise_drawn))
                self.note = self.note or note
        latents = torch.cat(encodings)
        mask = None if canvas is None else canvas.latent_mask((latents.shape[-2], latents.shape[-1]))
        if canvas is None or mask is None:
            return StartLatents(latents, noise_drawn, None)
        mask = mask.to(noise_drawn)
        if canvas.content:  # "latent noise" or "latent nothing"
            replacement = noise_drawn if canvas.content == CONTENTS[2] else torch.zeros_like(latents)
            latents = torch.where(mask > 0, replacement, latents)
        return StartLatents(latents, noise_drawn, mask, canvas.soft)

    def decoded(self, loop: Loop) -> list[PIL.Image]:
        """Pictures of a loop by place; a place without a part gets a copy. Raises Interrupted if no part is left."""
        pictures: dict[int, PIL.Image] = {}
        for part in self.crew.live:
            with ending_only(part):
                pictures[part.place], note = self.decode(loop, part.place)()
                self.note = self.note or note
        if not pictures:
            raise Interrupted
        other = next(iter(pictures.values()))
        return [pictures.get(place, other) for place in range(self.crew.size)]

    def decode(self, loop: Loop, place: int) -> Callable[[], tuple[PIL.Image, str]]:
        assert self.latents is not None
        spread = self.loaded.family.unpack_output(self.loaded.pipe, loop.params.width, loop.params.height)(self.latents)
        return decode(self.loaded, spread[place : place + 1], self.in_fp32)

    def finish(self, part: Part) -> Finish:
        """A function that returns the picture of a part once the device has finished."""
        last = self.loops[-1]
        tiled = self.mosaic and self.mosaic.pictures[part.place]
        decoded = (lambda: (tiled, "")) if tiled else self.decode(last, part.place)
        return partial(finish_picture, last.whole, decoded, self.canvas, self.watches, self.note)

    def previewer(self, loop: Loop) -> Previewer | None:
        """A function that starts drawing a preview of latents; None if the VAE allows no previews. It holds no
        reference to the model, because a preview may outlive it on another thread.
        """
        loaded = self.loaded
        unpack = loaded.family.unpack(loaded.pipe, loop.params.width, loop.params.height)
        plain, factors = loaded.family.to_vae_latents(loaded.pipe), loaded.factors
        decoder = loaded.preview_decoder
        if factors is None and decoder is None:
            return None
        mosaic = self.mosaic if loop.is_tile else None

        def begin(latents: torch.Tensor, place: int) -> Callable[[], PIL.Image]:
            drawn = preview_decoders.begin(plain(unpack(latents)), decoder, factors)
            return drawn if mosaic is None else lambda: mosaic.preview(loop, place, drawn())

        return begin

    def in_fp32(self) -> None:
        """Run the VAE in fp32 from now on."""
        pipe = self.loaded.pipe
        placement.vae_in_fp32(pipe, self.loaded.rung, str(pipe._execution_device))


def finish_picture(
    size: Size,
    decoded: Callable[[], tuple[PIL.Image, str]],
    canvas: SourceCanvas | None,
    watches: Sequence["Stopwatch"],
    flag: str,
) -> tuple[PIL.Image, dict[str, Any]]:
    """Returns (picture, facts known once the device has finished). Raises EngineError."""
    try:
        image, said_later = decoded()
    except Exception as error:  # may run on another thread, while the next picture is made
        problem = faults.to_engine_error(error, faults.making_error)
        problem.transient |= isinstance(problem, OutOfMemory)
        raise problem from error
    if image.size != size:
        raise BadImage(message("wrong_size", got=f"{image.width}x{image.height}"))
    if canvas is not None:
        image = canvas.paste(image)
    retry = flag or said_later
    return image, {"denoise_seconds": round(sum(each.seconds() for each in watches), 3)} | (
        {"vae_retry": retry} if retry else {}
    )


def open_canvas_of(part: Part, materials: PictureInputs | None) -> SourceCanvas | None:
    """As `open_canvas`, for a part; an error becomes the part's problem, and the result is None."""
    with ending_only(part):
        return open_canvas(part.params, materials)
    return None


def decode(loaded: Loaded, latents: torch.Tensor, in_fp32: Callable[[], None]) -> Callable[[], tuple[PIL.Image, str]]:
    """A function that returns (picture, note if decoding was retried). On CUDA, decoding has already been launched."""
    vae, forms = loaded.pipe.vae, loaded.forms
    if loaded.rung not in placement.WHOLE or latents.device.type != "cuda":
        # parts are offloaded, or the device is synchronous
        fusable = loaded.rung in STATIONARY_RUNGS
        decoder = forms.decoder(vae, loaded.dtype, latents.device) if fusable else None
        found = forms.fused_or_exact(
            decoder, lambda decoder: autoencoder.decode(vae, latents, in_fp32, decoder, forms.refuse_decoder)
        )
        return lambda: found

    def again(problem: str) -> tuple[PIL.Image, str]:
        loaded.checked = False
        image, note = autoencoder.decode(vae, latents, in_fp32)
        if problem and image.getbbox() is not None:  # a picture that is black again is black by content
            forms.refuse_decoder(f"the VAE gave {problem}")
        return image, note or f"the VAE gave {problem} and was run again"

    with forms.lock:
        return forms.fused_or_exact(
            forms.decoder(vae, loaded.dtype, latents.device),
            lambda decoder: autoencoder.decode_later(
                vae, latents, decoder and partial(loaded.graphs.decode, decoder), again, forms.lock
            ),
        )


class Stopwatch:
    """Measures the seconds of work on the device. A CUDA device is synchronised only when they are read."""

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


def open_canvas(params: Params, materials: PictureInputs | None) -> SourceCanvas | None:
    """The source picture and mask of the params at the job's size; None without a source picture."""
    if not params.source:
        return None
    if materials is None:
        raise ModelUnavailable(message("no_home_sources"))
    mask = materials.source(params.mask) if params.mask else None
    source = materials.source(params.source)
    if params.kind is Kind.INPAINT:
        return img2img.make_inpainting_canvas(source, mask, params)
    return img2img.make_canvas(source, (params.width, params.height))


def fill_start(loaded: Loaded, begun: StartLatents, start: torch.Tensor) -> None:
    """Write the noised source latents into ``start``, the tensor that the pipeline was called with."""
    pipe, family = loaded.pipe, loaded.family
    latents = img2img.add_noise(pipe.scheduler, begun.latents, begun.noise, pipe.scheduler.timesteps[:1])
    if family.scales_start:
        latents = latents / pipe.scheduler.init_noise_sigma
    start.copy_(family.start(pipe, latents))


def restore_source(
    loaded: Loaded, begun: StartLatents, params: Params, first: int, index: int, latents: torch.Tensor
) -> torch.Tensor:
    """Latents after a step, with the source restored outside the mask, in the layout between steps."""
    pipe, family = loaded.pipe, loaded.family
    spread = family.unpack(pipe, params.width, params.height)(latents)
    return family.pack(pipe, begun.restore_unmasked(pipe.scheduler, first, first + index, spread).to(latents.dtype))


def reads_mask(pipe: Any) -> bool:
    """Whether the pipeline's UNet takes a mask and a masked picture as input channels."""
    unet = getattr(pipe, "unet", None)
    return unet is not None and unet.config.in_channels == INPAINT_CHANNELS


def inpainting_call(loaded: Loaded, canvas: SourceCanvas | None, params: Params) -> Callable[..., Any]:
    """diffusers' inpainting pipeline with the same parts, for a UNet that reads a mask.

    Raises ModelUnavailable without a mask, or if the family has no such pipeline.
    """
    pipeline = loaded.family.inpainting
    if canvas is None or canvas.mask is None or pipeline is None:
        raise ModelUnavailable(message("inpaint_only", model=loaded.model.id))
    pipe = pipeline(loaded.pipe)
    pipe.set_progress_bar_config(disable=True)
    strength = max(params.strength, 1 / params.steps)
    return partial(pipe, image=canvas.source, mask_image=canvas.mask, strength=strength)
