"""Predicts how the memory policy will hold a model on a device, before its first picture. Torch-free.

Uses the same files and measurements as the engine, and the free memory that the worker reported last.
"""

from collections.abc import Sequence

from diffusion_local.domain import Fit, MemoryPlan, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.home_files import HomeFiles, additions_of, extras_of
from diffusion_local.engine.kept_blocks import kept_for
from diffusion_local.engine.memory import GIB, LADDERS, STREAMING, choose, estimate, format_gib
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

#: Bytes per parameter of the models that run in a process of their own.
FP32_BYTES = 4


def plan_words(plan: MemoryPlan) -> str:
    """Display text: ``gpu0: all of it stays in memory, about 9.1 of 12.0 GiB``."""
    how = f" ({plan.numbers})" if plan.numbers else ""
    takes = f"about {format_gib(plan.takes_bytes)} of {format_gib(plan.total_bytes)}"
    resident, _, blocks = plan.blocks.partition("/")
    stay = f", {message('blocks_stay', kept=resident, blocks=blocks)}" if blocks else ""
    more = "".join(f", {size / GIB:.2f} GiB for {name}" for name, size in plan.additions.items())
    words = f"{plan.slot}: {message(f'rung_{plan.rung}')}{stay}{how}, {takes}{more and f', of which{more[1:]}'}"
    return words if plan.fits_memory else f"{words}, which may be too little: {format_gib(plan.free_bytes)} are free"


def plan(
    model: Model,
    worker: Worker,
    learned: Sequence[Fit],
    numbers: str,
    rung: str,
    params: Params | None = None,
    files: HomeFiles | None = None,
) -> MemoryPlan:
    """Plan how a worker would hold a model for a picture with ``params``; None: with the model's defaults.

    ``learned``: measurements of this model on this device; ``numbers`` and ``rung``: the settings ``precision`` and
    ``memory``, the latter empty for the policy's choice; ``files``: where the networks that the params name are.
    """
    room = worker.room
    form = precision.form_of(numbers, model, room, precision.main_memory())
    dtype = precision.dtype_of(
        model.chosen_precision or numbers, room.type, model.family, precision.parameters_of(model), room.bf16
    )
    size = precision.held_weights(model, form, precision.NUMBER_BYTES[dtype])
    params, shares_memory = params or default_params(model), room.type != "cuda"
    number_bytes = precision.NUMBER_BYTES[dtype]
    need = estimate(size, number_bytes, *params.peak_size, extras=extras_of(params, files, shares_memory))
    learned = () if params.additions else learned
    choice = choose(LADDERS[room.type], model.id, need, worker.free_bytes, params, learned, params.rung or rung)
    how = precision.describe(dtype, form.denoiser)
    held = (choice.rung, "; ".join(filter(None, (choice.why, form.why))), choice.takes, worker.free_bytes, room.bytes)
    blocks = f"{len(kept_for(need.blocks, choice.room))}/{len(need.blocks)}" if choice.rung == STREAMING else ""
    additions = {
        each.name: each.parameters * (FP32_BYTES if each.held == "after" else number_bytes)
        for each in additions_of(params, files)
    }
    return MemoryPlan(worker.slot, worker.device, *held, how, blocks, additions)


def default_params(model: Model) -> Params:
    """Params of a picture with the model's defaults."""
    each = model.defaults
    kind = Kind.TXT2IMG if Kind.TXT2IMG in model.kinds else Kind(model.kinds[0])
    return Params("", "", model.id, each.width, each.height, each.steps, each.guidance, each.sampler, 0, kind)


def active_workers(workers: Sequence[Worker]) -> list[Worker]:
    """Running workers with a known type of device; if none runs, the stopped ones."""
    known = [each for each in workers if each.room.type in LADDERS]
    return [each for each in known if each.status != "stopped"] or known
