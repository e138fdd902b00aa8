"""The engine that runs diffusers. Several models in memory while there is room."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from diffusion_local.domain import DeviceMemory, Fit, Kind, Params
from diffusion_local.engine import (
    OnProgress,
    OnStep,
    Picture,
    cuda_recording,
    faults,
    painting,
    placement,
    precision,
    weights,
)
from diffusion_local.engine.adapters import put_in
from diffusion_local.engine.devices import Device
from diffusion_local.engine.fused.operations import available
from diffusion_local.engine.graphs import RUNGS, clip_encoders, denoiser_of
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.memory import LADDERS, MemoryNeed, RungChoice, choose, estimate
from diffusion_local.engine.model_cache import ModelCache
from diffusion_local.engine.placement import MemoryGauge
from diffusion_local.engine.steps import Steps
from diffusion_local.engine.upscale import Upscaler
from diffusion_local.errors import ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model

log = logging.getLogger(__name__)

for _library in (diffusers_logging, transformers_logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers|huggingface_hub)\b")


class DiffusersEngine:
    """Pipelines of diffusers on one device, with torch's own attention (SDPA) but for the last rung."""

    def __init__(
        self,
        device: Device,
        threads: int = 0,
        numbers: str = "auto",
        memory_limit: int = 0,
        materials: PictureInputs | None = None,
        graphs: bool = True,
        speed: str = "exact",
    ) -> None:
        """``threads`` limits torch on the CPU, ``memory_limit`` what it takes of a GPU (bytes); 0 leaves it to torch.

        ``numbers`` is the setting ``precision``; ``materials`` are the home's; ``graphs``: whether models that stay on
        an NVIDIA GPU run by CUDA graphs; ``speed`` is the setting. Raises UserError for a precision that the device
        does not have.
        """
        precision.check(numbers, device.type)
        self._device = device
        self._materials = materials
        self._gauge = MemoryGauge(device.torch, memory_limit)
        nvidia = device.type == "cuda" and torch.version.hip is None
        operations, problem = (None, "") if speed == "exact" else available(torch.device(device.torch))
        if problem and nvidia:
            log.warning("models run the exact way: %s", problem)
        recorder = cuda_recording.recorders(device.torch) if graphs and nvidia else None
        self._rack = ModelCache(device, numbers, self._gauge, recorder, operations)
        self._latest: Picture | None = None
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
        memory = self._device.memory or 0
        return DeviceMemory(self._device.type, min(self._gauge.limit or memory, memory), self._device.bf16)

    @property
    def ladder(self) -> tuple[str, ...]:
        return LADDERS[self._device.type]

    @property
    def loaded(self) -> str:
        return self._loaded.model.id if self._loaded else ""

    def plan(self, model: Model, params: Params, learned: Sequence[Fit], wanted: str = "") -> RungChoice:
        return choose(self.ladder, model.id, self._need(model, params), self.free(), params, learned, wanted)

    def free(self) -> int:
        return self._rack.free()

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        held = self._loaded
        if held is None or (held.model.id, held.rung) != (model.id, choice.rung if choice else self.ladder[0]):
            self._finish_latest()
        self._rack.load(model, choice or RungChoice(self.ladder[0]), on_progress or (lambda share: None))

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        if params.kind is not Kind.UPSCALE and self.loaded != params.model:
            raise ModelUnavailable(message("not_loaded", model=params.model))
        steps = Steps(on_step)
        self._gauge.start()
        try:
            with torch.no_grad():
                picture = self._upscale(params, steps) if params.kind is Kind.UPSCALE else self._paint(params, steps)
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
        if self._loaded is not None and isinstance(problem, OutOfMemory):
            self._loaded.graphs.refuse()
        self._gauge.collect()
        raise problem

    def spare(self) -> bool:
        self._finish_latest()
        return self._rack.spare()

    def unload(self) -> None:
        self._finish_latest()
        self._upscaler.unload()
        self._rack.clear()

    @property
    def _loaded(self) -> Loaded | None:
        return self._rack.current

    def _need(self, model: Model, params: Params) -> MemoryNeed:
        return estimate(weights.read(model.path), self._rack.dtype_of(model).itemsize, params.width, params.height)

    def _upscale(self, params: Params, steps: Steps) -> Picture:
        if self._materials is None:
            raise ModelUnavailable(message("no_home_sources"))
        picture = self._upscaler.upscale(params, steps, self._materials)
        picture.facts.update(self._facts(None))
        return picture

    def _paint(self, params: Params, steps: Steps) -> Picture:
        loaded = self._loaded
        assert loaded is not None
        if (params.vae, params.loras) != (loaded.vae, loaded.loras):
            self._finish_latest()
        extras = put_in(loaded, params, self._materials, self._device.torch)
        need = self._need(loaded.model, params)
        room = self._rack.room_for_graphs(need)
        whole = loaded.rung in placement.WHOLE
        form = loaded.forms.denoiser(loaded.pipe, max(0, room - need.graph)) if loaded.rung in RUNGS else None
        encoders = clip_encoders(loaded.pipe) if whole else {}
        with loaded.graphs.around(denoiser_of(loaded.pipe), room, need.graph, form, encoders):
            picture = painting.paint(loaded, params, steps, self._materials)
        self._latest = picture
        if not (loaded.checked and whole and self._device.type == "cuda"):
            picture.image  # noqa: B018 - waits for it
            loaded.checked = True
        picture.facts.update(self._facts(loaded) | extras | loaded.forms.facts())
        if loaded.graphs.replayed:
            picture.facts["cuda_graph"] = True
        if loaded.load_seconds is not None:
            picture.facts["load_seconds"] = round(loaded.load_seconds, 3)
            loaded.load_seconds = None
        return picture

    def _finish_latest(self) -> None:
        """Before parts of the model move or go: the latest picture may still need them. Its own thread reports it."""
        latest, self._latest = self._latest, None
        if latest is not None:
            with suppress(Exception):
                latest.image  # noqa: B018 - waits for it

    def _facts(self, loaded: Loaded | None) -> dict[str, Any]:
        numbers = {"dtype": loaded.dtype, "vae_dtype": loaded.pipe.vae.dtype} if loaded else {}
        return {
            "engine": "diffusers",
            "device": self.device,
            **{name: str(dtype).removeprefix("torch.") for name, dtype in numbers.items()},
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }
