"""Predicts how the memory policy will hold a model on a device, before its first picture. Torch-free.

Uses the same files and measurements as the engine, and the free memory that the worker reported last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_local.domain import Fit, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.kept_blocks import kept_for
from diffusion_local.engine.memory import LADDERS, STREAMING, choose, estimate, format_gib
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model would be held on a slot's device, for a picture of its default size.

    ``takes_bytes``: bytes at the peak; ``total_bytes``: bytes of the device for models; ``free_bytes``: those that are
    free now or held by models that can be evicted. ``numbers``: the compute dtype, and the form of the denoiser's
    weights if different. ``blocks``: blocks that stay on the device if the others are streamed, such as ``12/57``.
    """

    slot: str
    device: str
    rung: str
    why: str
    takes_bytes: int
    free_bytes: int
    total_bytes: int
    numbers: str = ""
    blocks: str = ""

    @property
    def fits(self) -> bool:
        return self.takes_bytes <= self.free_bytes

    @property
    def words(self) -> str:
        """Display text: ``gpu0: all of it stays in memory, about 9.1 of 12.0 GiB``."""
        how = f" ({self.numbers})" if self.numbers else ""
        takes = f"about {format_gib(self.takes_bytes)} of {format_gib(self.total_bytes)}"
        kept, _, blocks = self.blocks.partition("/")
        stay = f", {message('blocks_stay', kept=kept, blocks=blocks)}" if blocks else ""
        told = f"{self.slot}: {message(f'rung_{self.rung}')}{stay}{how}, {takes}"
        return told if self.fits else f"{told}, which may be too little: {format_gib(self.free_bytes)} are free"


def plan(model: Model, worker: Worker, learned: Sequence[Fit], numbers: str, wanted: str) -> MemoryPlan:
    """Plan how a worker would hold a model.

    ``learned``: measurements of this model on this device; ``numbers`` and ``wanted``: the settings ``precision`` and
    ``memory``, the latter empty for the policy's choice.
    """
    room = worker.room
    form = precision.form_of(numbers, model, room, precision.main_memory())
    dtype = precision.dtype_of(
        model.chosen_precision or numbers, room.type, model.family, precision.parameters_of(model), room.bf16
    )
    size = precision.held_weights(model, form, precision.NUMBER_BYTES[dtype])
    params = default_params(model)
    need = estimate(size, precision.NUMBER_BYTES[dtype], *params.peak_size)
    choice = choose(LADDERS[room.type], model.id, need, worker.free_bytes, params, learned, wanted)
    how = precision.describe(dtype, form.denoiser)
    held = (choice.rung, "; ".join(filter(None, (choice.why, form.why))), choice.takes, worker.free_bytes, room.bytes)
    blocks = f"{len(kept_for(need.blocks, choice.room))}/{len(need.blocks)}" if choice.rung == STREAMING else ""
    return MemoryPlan(worker.slot, worker.device, *held, how, blocks)


def default_params(model: Model) -> Params:
    """Params of a picture with the model's defaults."""
    each = model.defaults
    kind = Kind.TXT2IMG if Kind.TXT2IMG in model.kinds else Kind(model.kinds[0])
    return Params("", "", model.id, each.width, each.height, each.steps, each.guidance, each.sampler, 0, kind)


def active_workers(workers: Sequence[Worker]) -> list[Worker]:
    """Running workers with a known type of device; if none runs, the stopped ones."""
    known = [each for each in workers if each.room.type in LADDERS]
    return [each for each in known if each.status != "stopped"] or known
