"""The engine that runs diffusers pipelines. Keeps several models in memory while there is room."""

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffusion_local import __version__
from diffusion_local.domain import DeviceMemory, Fit
from diffusion_local.engine import (
    Held,
    OnProgress,
    OnStep,
    Part,
    Pass,
    Picture,
    controls,
    cuda_recording,
    faults,
    final_steps,
    halves,
    painting,
    placement,
    precision,
)
from diffusion_local.engine.adapters import apply_adapters
from diffusion_local.engine.devices import Device, at_slot
from diffusion_local.engine.families import FAMILIES
from diffusion_local.engine.fused.operations import available
from diffusion_local.engine.graphs import clip_encoders, denoiser_of
from diffusion_local.engine.home_files import extras_of
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import HeldLoop
from diffusion_local.engine.memory import LADDERS, MemoryNeed, RungChoice, choose, estimate
from diffusion_local.engine.model_cache import ModelCache
from diffusion_local.engine.placement import MemoryGauge
from diffusion_local.engine.steps import Interrupted, Steps
from diffusion_local.engine.upscale import Upscaler
from diffusion_local.errors import ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

log = logging.getLogger(__name__)

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers|huggingface_hub)\b")


class DiffusersEngine:
    """Runs diffusers pipelines on one device, with torch's own attention (SDPA) except on the last rung."""

    def __init__(
        self,
        device: Device,
        threads: int = 0,
        numbers: str = "auto",
        memory_limit: int = 0,
        materials: PictureInputs | None = None,
        graphs: bool = True,
        speed: str = "exact",
        device_at: Callable[[str], Device] = at_slot,
    ) -> None:
        """``threads`` limits torch's CPU threads, ``memory_limit`` its GPU memory (bytes); 0 means torch's default.

        ``numbers``: the setting ``precision``; ``speed``: the setting ``speed``; ``materials``: files of the home;
        ``graphs``: whether models that stay on an NVIDIA GPU use CUDA graphs; ``device_at``: the device of a slot that
        is lent to a pass. Raises UserError for a precision that the device does not support.
        """
        precision.check(numbers, device.type)
        self._device = device
        self._precision, self._speed = numbers, speed
        self._materials = materials
        self._gauge = MemoryGauge(device.torch, memory_limit)
        nvidia = device.type == "cuda" and torch.version.hip is None
        operations, problem = (
            (None, "")
            if speed == "exact"
            else available(torch.device(device.torch), speed == "fastest" and numbers == "auto")
        )
        if problem and nvidia:
            log.warning("models run the exact way: %s", problem)
        records = graphs and nvidia
        recorder = cuda_recording.recorders(device.torch) if records else None
        self._cache = ModelCache(device, numbers, self._gauge, recorder, operations)
        self._halver = halves.Halver(
            device_at, lambda other: cuda_recording.recorders(other.torch)() if records else None, operations
        )
        self._latest: list[Picture] = []
        self._upscaler = Upscaler(device.torch)
        if threads:
            torch.set_num_threads(threads)

    @property
    def device(self) -> str:
        if self._device.type != "cpu":
            return self._device.words
        threads = torch.get_num_threads()
        return f"{self._device.words} ({threads} thread{'s' * (threads > 1)})"

    @property
    def room(self) -> DeviceMemory:
        return self._cache.room

    @property
    def ladder(self) -> tuple[str, ...]:
        return LADDERS[self._device.type]

    @property
    def loaded(self) -> str:
        return self._loaded.model.id if self._loaded else ""

    def plan(
        self, model: Model, params: Params, learned: Sequence[Fit], rung: str = "", together: int = 1
    ) -> RungChoice:
        free = self.free()
        more = self._need(model, params, together) if together > 1 else None
        choice = choose(self.ladder, model.id, self._need(model, params), free, params, learned, rung, more)
        why = "; ".join(filter(None, (choice.why, self._cache.form_of(model).why)))
        return replace(choice, why=why)

    def free(self) -> int:
        return self._cache.free()

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        held = self._loaded
        if held is None or (held.model.id, held.rung) != (model.id, choice.rung if choice else self.ladder[0]):
            self._finish_latest()
            self._halver.close()
        self._cache.load(model, choice or RungChoice(self.ladder[0]), on_progress or (lambda share: None))

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        part = Part(params, on_step)
        self.run(Pass([part]))
        return part.result()

    def run(self, crew: Pass) -> None:
        params = crew.parts[0].params
        if params.kind is not Kind.UPSCALE and self.loaded != params.model:
            raise ModelUnavailable(message("not_loaded", model=params.model))
        steps = Steps(crew)
        self._gauge.start()
        try:
            with torch.no_grad():
                if params.kind is Kind.UPSCALE:
                    crew.parts, crew.left = crew.parts[:1], crew.parts[1:] + crew.left
                    crew.parts[0].made = self._upscale(params, steps)
                else:
                    self._paint(crew, steps)
                for part in crew.parts:
                    if part.made is not None and (peak := self._gauge.peak()):
                        part.made.facts["peak_bytes"] = peak - self._cache.bytes_of_others()
                return
        except Interrupted:
            return
        except Exception as error:
            problem = faults.to_engine_error(error, faults.making_error)
        finally:
            if self._loaded is not None:
                placement.offload_all(self._loaded.pipe)
                controls.offload(self._loaded)
        if self._loaded is not None and isinstance(problem, OutOfMemory):
            self._loaded.graphs.disable()
        self._gauge.collect()
        raise problem

    def serialize_held(self, held: Held) -> bytes:
        assert isinstance(held, HeldLoop)
        return held.to_bytes(self._stamp())

    def restore_held(self, data: bytes) -> Held | None:
        return HeldLoop.from_bytes(data, self._stamp())

    def _stamp(self) -> str:
        """Identifies device, settings and versions, which must all match for a held pass to give the same pixels."""
        versions = (torch.__version__, diffusers.__version__, transformers.__version__, __version__)
        return " ".join(map(str, (self.device, self._precision, self._speed, *versions)))

    def helper_bytes(self, model: Model, params: Params) -> int:
        family = FAMILIES.get(model.family)
        if family is None or not family.halves or not halves.divisible(params):
            return 0
        need = self._need(model, params)
        return need.denoiser + need.step + need.graph + halves.CONTEXT_BYTES

    def drop_helper(self) -> None:
        self._halver.close()

    def make_room(self, size: int) -> bool:
        self._finish_latest()
        return self._cache.make_room(size)

    def free_caches(self) -> bool:
        self._finish_latest()
        return self._cache.free_caches()

    def unload(self) -> None:
        self._finish_latest()
        self._halver.close()
        self._upscaler.unload()
        self._cache.clear()

    @property
    def _loaded(self) -> Loaded | None:
        return self._cache.current

    def _need(self, model: Model, params: Params, together: int = 1) -> MemoryNeed:
        size = self._cache.dtype_of(model).itemsize
        extras = extras_of(params, self._materials, shares_memory=self._device.type != "cuda")
        return estimate(self._cache.weights_of(model), size, *params.peak_size, together, extras)

    def _upscale(self, params: Params, steps: Steps) -> Picture:
        if self._materials is None:
            raise ModelUnavailable(message("no_home_sources"))
        self._materials.check_tasks(params)
        picture = self._upscaler.upscale(params, steps, self._materials)
        picture.facts.update(self._facts(None))
        return final_steps.cut_out(picture, self._materials) if params.background else picture

    def _paint(self, crew: Pass, steps: Steps) -> None:
        loaded, params = self._loaded, crew.parts[0].params
        assert loaded is not None
        loaded.halved = halves.in_halves(loaded, crew)
        if isinstance(crew.held, HeldLoop) and crew.held.weights != loaded.weights_name:
            crew.held = None  # the precision has changed since: start again
        if (params.vae, params.loras) != (loaded.vae, loaded.loras):
            self._finish_latest()
        extras: dict[Part, dict[str, Any]] = {}
        for part in crew.live:
            with faults.ending_only(part):
                if self._materials is not None:
                    self._materials.check_tasks(part.params)
                extras[part] = apply_adapters(loaded, part.params, self._materials, self._device.torch)
                extras[part] |= controls.apply_controls(loaded, part.params, self._materials, self._device.torch)
        if not crew.live:
            raise Interrupted
        need = self._need(loaded.model, params, crew.size if crew.held else len(crew.live))
        # IP-Adapters and regional prompts use attention that fused forms lack and inputs that graphs do not copy
        own_attention = bool(loaded.ip_adapters or params.regions)
        room = 0 if own_attention else self._cache.room_for_graphs(need)
        whole = loaded.rung in placement.WHOLE
        form = (
            loaded.forms.denoiser(loaded.pipe, max(0, room - need.graph))
            if placement.weights_stay(loaded.pipe, loaded.rung) and not loaded.hooked and not own_attention
            else None
        )
        encoders = clip_encoders(loaded.pipe) if whole else {}
        with (
            loaded.graphs.around(denoiser_of(loaded.pipe), room, need.graph, form, encoders, need.decode),
            self._halver.around(loaded, crew.helper, form, need.graph) if loaded.halved else nullcontext() as halved,
        ):
            enlarge = partial(self._upscaler.enlarge, self._materials)
            painting.paint(loaded, crew, steps, self._materials, enlarge)
            if params.details and self._materials is not None:
                final_steps.refine(loaded, crew.parts, self._materials, enlarge, loaded.rung == self.ladder[-1])
        made = {part: part.made for part in crew.parts if part.made is not None}
        self._latest = list(made.values())
        for part, picture in made.items():
            if not (loaded.checked and whole and self._device.type == "cuda"):
                with faults.ending_only(part):
                    picture.image  # noqa: B018 - waits for it
            if part.problem is not None:
                part.made = None
            elif params.background and self._materials is not None:
                part.made = picture = final_steps.cut_out(picture, self._materials)
            picture.facts.update(self._facts(loaded) | extras.get(part, {}) | loaded.forms.facts())
            picture.facts.update(placement.facts(loaded.pipe))
            if halved is not None:
                picture.facts |= {"gpus": 2, "helped_steps": halved.helped}
            if loaded.graphs.replayed:
                picture.facts["cuda_graph"] = True
            if loaded.load_seconds is not None:
                picture.facts["load_seconds"] = round(loaded.load_seconds, 3)
                loaded.load_seconds = None
        loaded.checked = all(part.problem is None for part in made)

    def _finish_latest(self) -> None:
        """Wait for the latest pictures, which may still use parts of the model, before those are moved or unloaded.

        Errors are ignored here; the threads that save the pictures report them.
        """
        latest, self._latest = self._latest, []
        for picture in latest:
            with suppress(Exception):
                picture.image  # noqa: B018 - waits for it

    def _facts(self, loaded: Loaded | None) -> dict[str, Any]:
        numbers = {"dtype": loaded.dtype, "vae_dtype": loaded.pipe.vae.dtype} if loaded else {}
        form = loaded.form if loaded else precision.Form()
        held = {"weights": form.denoiser, "text_encoder_weights": form.encoders, "weights_why": form.why}
        facts = {name: value for name, value in held.items() if value}
        return {
            "engine": "diffusers",
            "device": self.device,
            **{name: str(dtype).removeprefix("torch.") for name, dtype in numbers.items()},
            **facts,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }
