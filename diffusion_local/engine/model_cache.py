"""Cache of loaded models. The least recently used one is evicted first, and only when its memory is needed."""

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.hooks import remove_hook_from_module

from diffusion_local.domain import DeviceMemory
from diffusion_local.engine import OnProgress, faults, graphs, placement, precision, previews, single_file
from diffusion_local.engine.devices import Device
from diffusion_local.engine.encoders import (
    ENCODER_NAMES,
    Opener,
    TextEncoders,
    encoder_request,
    encoders_of,
    shared_encoders,
)
from diffusion_local.engine.families import FAMILIES
from diffusion_local.engine.fused.forms import Forms
from diffusion_local.engine.fused.operations import Operations
from diffusion_local.engine.kept_blocks import kept_for
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loading import load_parts
from diffusion_local.engine.memory import STREAMING, MemoryNeed, RungChoice, Weights
from diffusion_local.engine.placement import MemoryGauge
from diffusion_local.errors import EngineError, ModelUnavailable
from diffusion_local.messages import message
from diffusion_local.models import integrity
from diffusion_local.models.catalog import Model


class ModelCache:
    """Loaded models by id, the most recently used last; ``current`` is the one in use."""

    def __init__(
        self,
        device: Device,
        precision: str,
        gauge: MemoryGauge,
        recorder: Callable[[], graphs.Recorder] | None = None,
        operations: Operations | None = None,
    ) -> None:
        """``recorder`` creates the recorder of a model's CUDA graphs; ``operations``: kernels for the fused forms of
        its parts. None disables CUDA graphs, or fused forms.
        """
        self._recorder = recorder
        self._operations = operations
        self._device = device
        self._precision = precision
        self._gauge = gauge
        self._held: OrderedDict[str, Loaded] = OrderedDict()
        self._encoders = TextEncoders()
        self.current: Loaded | None = None

    def free(self) -> int:
        """Free bytes of the device, plus those that evicting all models would release."""
        return self._gauge.free() + self._bytes()

    def bytes_of_others(self) -> int:
        """Bytes of the device held only by models other than the current one."""
        return self._bytes() - (self.current.bytes if self.current else 0)

    @property
    def room(self) -> DeviceMemory:
        memory = self._device.memory or 0
        return DeviceMemory(self._device.type, min(self._gauge.limit or memory, memory), self._device.bf16)

    def dtype_of(self, model: Model) -> torch.dtype:
        precision_setting, room = model.chosen_precision or self._precision, self.room
        name = precision.dtype_of(precision_setting, room.type, model.family, precision.parameters_of(model), room.bf16)
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def form_of(self, model: Model) -> precision.Form:
        return precision.form_of(self._precision, model, self.room, precision.main_memory())

    def weights_of(self, model: Model) -> Weights:
        return precision.held_weights(model, self.form_of(model), self.dtype_of(model).itemsize)

    def load(self, model: Model, choice: RungChoice, on_progress: OnProgress) -> None:
        """See ``Engine.load``."""
        held = self._held.get(model.id)
        if (
            held
            and self._as_held(held, model)
            and held.rung == choice.rung
            and not held.displaced
            and suits(held, choice)
        ):
            self._use(held)
            self._make_room(model.id, choice.takes - held.bytes)
            return
        if not model.ready:
            raise ModelUnavailable(message("model_cannot_load", model=model.id, problem=model.problem))
        if model.family not in FAMILIES:
            raise ModelUnavailable(message("family_unsupported", model=model.id, family=model.family))
        if emulated := precision.problem(model.chosen_precision, self._device.type):
            raise ModelUnavailable(emulated)
        if held and (not self._as_held(held, model) or held.rung not in placement.MOVABLE):
            held = None
        if held is None:
            for path in files_of(model):
                integrity.check(path)
            self._drop(model.id)
        self.current = None
        raised: list[BaseException] = []

        def report(share: float) -> None:
            try:
                on_progress(share)
            except BaseException as error:
                raised.append(error)
                raise

        problem: EngineError
        try:
            self._hold(held, model, choice, report)
            return
        except Exception as error:
            self._drop(model.id)
            held = None
            if error in raised:
                raise
            problem = faults.to_engine_error(error, partial(faults.loading_error, model))
        self._gauge.collect()
        raise problem

    def free_caches(self) -> bool:
        """Drop all graphs, and all models but the current one. Returns whether there were any."""
        freed = self._forget_graphs()
        others = [name for name, held in self._held.items() if held is not self.current]
        for name in others:
            self._drop(name)
        self._gauge.collect()
        return bool(others) or freed

    def room_for_graphs(self, need: MemoryNeed) -> int:
        """Bytes available to CUDA graphs of the current model beyond the needs of a picture.

        Drops graphs of other models if necessary.
        """
        held = self.current
        if held is None or not placement.weights_stay(held.pipe, held.rung):
            return 0
        streamed = placement.streamed_denoiser(held.pipe)
        takes = need.bytes_at(held.rung, streamed.kept_bytes if streamed else 0)
        room = self._free_but_for_graphs() + held.graphs.bytes - (takes - held.bytes)
        if room >= need.graph:
            return room
        for other in self._held.values():
            if other is not held:
                room += other.graphs.bytes
                other.graphs.forget()
        return room

    def make_room(self, size: int) -> bool:
        """Evict models until ``size`` bytes are free for another process; returns whether they are."""
        self._gauge.collect()
        self._make_room("", size)
        if self.current is not None and self.current.model.id not in self._held:
            self.current = None
            self._gauge.collect()
        return self._gauge.free() >= size

    def clear(self) -> None:
        """Evict all models."""
        self.current = None
        self._held.clear()
        self._gauge.collect()

    def _as_held(self, held: Loaded, model: Model) -> bool:
        """Whether a loaded model still matches its files and the chosen precision."""
        return same_files(held.model, model) and (held.form, held.dtype) == (self.form_of(model), self.dtype_of(model))

    def _hold(self, held: Loaded | None, model: Model, choice: RungChoice, on_progress: OnProgress) -> None:
        """Hold a model on the chosen rung: move it if it is loaded (``held``), else load it from its files."""
        if held is None:
            self._gauge.collect()
            size = self.dtype_of(model).itemsize
            weight = sum(precision.bytes_of_parts(precision.model_weights(model), self.form_of(model), size).values())
            shared = self._shareable(model, choice)  # this reference keeps them when their models are evicted
            here = sum(placement.bytes_of(each, self._device.type) for each in shared)
            weight -= sum(each.nbytes for encoder in shared for each in encoder.parameters())
            self._make_room(model.id, choice.takes - here, weight)
            held = self._load(model, on_progress, choice.rung in placement.MOVABLE)
        else:
            if choice.rung not in placement.MOVABLE:
                self._end_sharing(held)
            self._make_room(model.id, choice.takes - held.bytes)
        held.weights_change()
        held.forms = Forms(None if held.kept else self._operations, held.graphs.forget, self._device.bf16)
        held.checked = False
        placement.place(held.pipe, choice.rung, self._device.torch, choice.room)
        held.rung, held.displaced = choice.rung, False
        held.bytes = self._measure(held)
        for other in self._sharing(held):
            if not {held.rung, other.rung} <= placement.WHOLE:
                other.displaced = True
                other.bytes = self._measure(other)
        self._use(held)
        self._gauge.collect()

    def _load(self, model: Model, on_progress: OnProgress, may_share: bool) -> Loaded:
        started = time.monotonic()
        encoders = self._encoders if may_share else None
        form = self.form_of(model)
        opener = Opener(encoders, form.of_parts(precision.model_weights(model).parts), self._device.torch)
        family, dtype = FAMILIES[model.family], self.dtype_of(model)
        if model.file:
            pipe = single_file.load(model, dtype, on_progress, opener)
        else:
            pipe = family.load(model.folder, dtype, load_parts(model, dtype, on_progress, opener))
        self._encoders.join(pipe)
        stored = form.denoiser
        if stored == precision.FP8:
            placement.store_as_fp8(pipe, dtype)
        pipe.set_progress_bar_config(disable=True)
        pipe.vae.to(self._device.torch)  # fits the previews' factors faster
        return Loaded(
            model=model,
            family=family,
            pipe=pipe,
            dtype=dtype,
            scheduler_config=dict(pipe.scheduler.config),
            factors=previews.fit_factors(pipe.vae),
            rung="",
            load_seconds=time.monotonic() - started,
            graphs=graphs.Graphs(self._recorder() if self._recorder and not stored else None),
            kept=stored,
            form=form,
            encoders=self._encoders,
        )

    def _shareable(self, model: Model, choice: RungChoice) -> list[torch.nn.Module]:
        """Loaded text encoders that a model would share; none on rungs from which parts cannot be moved."""
        if choice.rung not in placement.MOVABLE:
            return []
        dtype, parts = self.dtype_of(model), precision.model_weights(model).parts
        forms = self.form_of(model).of_parts(parts)
        shared = [
            self._encoders.find(encoder_request(model, slot, dtype, forms.get(slot, "")))
            for slot in ENCODER_NAMES
            if slot in parts
        ]
        return [each for each in shared if each is not None]

    def _sharing(self, held: Loaded) -> list[Loaded]:
        """Other models that share a text encoder with this one."""
        others = [other for other in self._held.values() if other is not held]
        return [other for other in others if shared_encoders(other.pipe, held.pipe)]

    def _end_sharing(self, held: Loaded) -> None:
        """Evict models that share a text encoder with this one, before it moves to a rung that it cannot leave."""
        for other in self._sharing(held):
            self._drop(other.model.id)
        self._encoders.close(held.pipe)

    def _measure(self, held: Loaded) -> int:
        """Bytes on the device of a model's weights and ControlNets."""
        nets = [net for _, net in held.controls.values()] if held.rung in placement.WHOLE else []
        of_nets = sum(placement.bytes_of(net, self._device.type) for net in nets)
        return placement.bytes_on(held.pipe, self._device.type) + of_nets

    def _bytes(self) -> int:
        """Bytes of the device held by all models. A shared text encoder counts once."""
        seen: set[int] = set()
        total = 0
        for held in self._held.values():
            total += held.bytes
            for encoder in encoders_of(held.pipe).values():
                total -= placement.bytes_of(encoder, self._device.type) if id(encoder) in seen else 0
                seen.add(id(encoder))
        return total

    def _drop(self, name: str) -> None:
        """Evict a model. Text encoders shared with others stay, without the hooks that refer to its other parts."""
        gone = self._held.pop(name, None)
        if gone is None:
            return
        for other in self._held.values():
            if not {gone.rung, other.rung} <= placement.WHOLE:
                for encoder in shared_encoders(gone.pipe, other.pipe):
                    remove_hook_from_module(encoder, recurse=True)
                    other.displaced = True

    def _use(self, held: Loaded) -> None:
        self._held[held.model.id] = self.current = held
        self._held.move_to_end(held.model.id)

    def _make_room(self, keep: str, device_bytes: int, main_bytes: int = 0) -> None:
        """Drop graphs, then the least recently used models (except ``keep``), until this many bytes are free."""
        if self._free_but_for_graphs() < device_bytes:
            self._forget_graphs()
        for name in [name for name in self._held if name != keep]:
            if self._gauge.free() >= device_bytes and placement.free_main_memory() >= main_bytes:
                return
            self._drop(name)
            self._gauge.collect()

    def _free_but_for_graphs(self) -> int:
        """Free bytes of the device without the memory that graphs keep between steps, which torch counts as free."""
        return self._gauge.free() - sum(held.graphs.bytes for held in self._held.values())

    def _forget_graphs(self) -> bool:
        forgotten = [held.graphs.forget() for held in self._held.values()]
        return any(forgotten)


def suits(held: Loaded, choice: RungChoice) -> bool:
    """Whether the number of blocks kept on the device is about the number that the choice has room for."""
    if choice.rung != STREAMING:
        return True
    streamed = placement.streamed_denoiser(held.pipe)  # None after a change that ran out of memory
    return streamed is not None and streamed.suits(partial(kept_for, room=choice.room))


def files_of(model: Model) -> list[Path]:
    """The files that a model is loaded from; for a folder, the folder itself."""
    return list(dict.fromkeys(each.path for each in model.sources)) or [model.path]


def same_files(one: Model, other: Model) -> bool:
    return files_of(one) == files_of(other)
