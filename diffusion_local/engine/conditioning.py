"""Inputs of a denoising loop: prompt embeddings per step, and noise from seeds, for each picture of a pass.

They are prepared without synchronising with a CUDA device that still works on the previous pass.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_local.engine import Part, Pass, assign_places
from diffusion_local.engine.family import Conditioning
from diffusion_local.engine.faults import ending_only
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.loops import Loop
from diffusion_local.grammar import schedules
from diffusion_local.models.starter_words import understood
from diffusion_local.options.table import Params

#: Number of prompts whose embeddings are cached: with negatives, about 0.3 MB each for SD, 0.6 MB for SDXL.
PROMPTS_KEPT = 64


@dataclass(slots=True)
class PreparedPart:
    """One picture of a pass before its first step. ``texts`` are (prompt, negative) at each step."""

    texts: list[tuple[str, str]]
    embedded: dict[tuple[str, str], Conditioning]
    noise: torch.Tensor
    generator: torch.Generator

    def texts_at(self, step: int) -> tuple[str, str]:
        return self.texts[min(step, len(self.texts) - 1)]

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Equal for parts that fit into one loop. Unique if the prompt's length changes between steps."""
        found = {shape_key(each) for each in self.embedded.values()}
        return (tuple(self.noise.shape), *found, *[id(self)] * (len(found) > 1))


def prepare(loaded: Loaded, part: Part, loop: Loop, others: Sequence[Loop] = ()) -> PreparedPart | None:
    """Prepare a picture for a loop. Returns None and ends the part if that fails.

    ``others``: the picture's later loops, whose prompts are embedded now so that ``batch_key`` covers them. Raises
    OutOfMemory and DeviceLost, which concern the whole pass.
    """
    with ending_only(part):
        texts = texts_per_step(loaded, part.params, loop.steps_run)
        later = [pair for each in others for pair in texts_per_step(loaded, part.params, each.steps_run)]
        embedded = {pair: embed(loaded, part.params, *pair) for pair in (*texts, *later)}
        return PreparedPart(texts, embedded, *draw_noise(loaded, part.params, loop))
    return None


def draw_noise(loaded: Loaded, params: Params, loop: Loop) -> tuple[torch.Tensor, torch.Generator]:
    """The noise of a picture in a loop. Tiles get crops of one large noise, so that they agree where they overlap."""
    shape = loaded.family.latent_shape(loaded.pipe, loop.params.width, loop.params.height)
    if loop.box is None or not loop.is_tile:
        return seeded_noise(params, shape)
    whole, generator = seeded_noise(params, loaded.family.latent_shape(loaded.pipe, *loop.whole))
    row, column = (
        start * whole.shape[axis] // length
        for axis, start, length in ((-2, loop.box[1], loop.whole[1]), (-1, loop.box[0], loop.whole[0]))
    )
    part = whole[..., row : row + shape[-2], column : column + shape[-1]].clone()
    return part, generator.manual_seed(params.seed + (loop.number << 32))


def assign_compatible(crew: Pass, sketches: dict[Part, PreparedPart], together: bool) -> None:
    """Set the places of a new pass; parts incompatible with the first, and all but one unless ``together``, move to
    ``left``.
    """
    first, *others = sketches
    beside = [each for each in others if together and sketches[each].batch_key == sketches[first].batch_key]
    ended = [part for part in crew.parts if not part.live]
    crew.left = [part for part in others if part not in beside] + crew.left
    crew.parts = [first, *beside]
    assign_places(crew)
    crew.parts += ended


def by_place(
    crew: Pass,
    sketches: dict[Part, PreparedPart],
    again: Callable[[Part], tuple[torch.Tensor, torch.Generator]],
) -> list[PreparedPart]:
    """The prepared part of each place. Places without a live part get a copy of another, with its own generator."""
    there = {part.place: sketch for part, sketch in sketches.items() if part in crew.live}
    model, copied = next((part, sketch) for part, sketch in sketches.items() if part in crew.live)
    return [
        there[place] if place in there else replace(copied, generator=again(model)[1]) for place in range(crew.size)
    ]


def conditioning_per_step(places: Sequence[PreparedPart]) -> list[Conditioning]:
    """The pipeline's conditioning per step, or one if it never changes. Equal texts give the same object."""
    known: dict[tuple[tuple[str, str], ...], Conditioning] = {}
    per_step = []
    for step in range(max(len(each.texts) for each in places)):
        pairs = tuple(each.texts_at(step) for each in places)
        if pairs not in known:
            known[pairs] = stack([each.embedded[pair] for each, pair in zip(places, pairs, strict=True)])
        per_step.append(known[pairs])
    return per_step if len(known) > 1 else per_step[:1]


def stack(each: Sequence[Conditioning]) -> Conditioning:
    """Concatenate the conditionings of several pictures into one batch."""
    if len(each) == 1:
        return each[0]

    def together(values: list[Any]) -> Any:
        if torch.is_tensor(values[0]):
            return torch.cat(values)
        return [item for value in values for item in value] if isinstance(values[0], list) else values[0]

    return {name: together([one[name] for one in each]) for name in each[0]}


def shape_key(conditioning: Conditioning) -> tuple[Any, ...]:
    """Equal for conditionings that can be stacked; lists hold one tensor of any length per picture."""
    return tuple(
        (name, tuple(value.shape) if torch.is_tensor(value) else type(value)) for name, value in conditioning.items()
    )


def texts_per_step(loaded: Loaded, params: Params, steps: int) -> list[tuple[str, str]]:
    """(prompt, negative) per step; a single pair as written for families that cannot change the prompt."""
    texts = [understood(loaded.model, text)[0] for text in (params.prompt, params.negative)]
    if loaded.family.prompt_tensors is None or loaded.pictures:
        return [(texts[0], texts[1])]
    both = (schedules.prompt_per_step(text, steps) for text in texts)
    return list(zip(*both, strict=True))


def next_prompt(
    loaded: Loaded, each: list[Conditioning], order: int, index: int, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The embeddings of the step after a denoiser call, if they change; else empty."""
    now, after = (each[min(call // order, len(each) - 1)] for call in (index, index + 1))
    if after is now or loaded.family.prompt_tensors is None:
        return {}
    like = tensors["prompt_embeds"]
    return {name: tensor.to(like) for name, tensor in loaded.family.prompt_tensors(after).items()}


def embed(loaded: Loaded, params: Params, prompt: str, negative: str) -> Conditioning:
    """Embed a prompt, using the cache of recent ones. Without guidance the negative prompt is ignored."""
    guided = loaded.family.uses_guidance(loaded.pipe, params.guidance)
    key = (prompt, negative if guided else None, params.clip_skip)
    together = loaded.family.embed_with if loaded.pictures else None
    cached = (*key, loaded.loras, loaded.words, params.references if together else ())
    if cached not in loaded.prompts and together:
        loaded.prompts[cached] = together(loaded.pipe, prompt, key[1], loaded.pictures)
    elif cached not in loaded.prompts:
        loaded.prompts[cached] = loaded.family.embed(loaded.pipe, *key)
    loaded.prompts.move_to_end(cached)
    if len(loaded.prompts) > PROMPTS_KEPT:
        loaded.prompts.popitem(last=False)
    return loaded.prompts[cached]


def seeded_noise(params: Params, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Generator]:
    """The initial noise of a picture, and the generator for noise that samplers draw at later steps.

    With a variation seed, the noise is interpolated spherically from the seed's to the variation seed's.
    """
    generator = torch.Generator().manual_seed(params.seed)
    noise = torch.randn(shape, generator=generator)
    if params.variation_seed is not None and params.variation_strength:
        other = torch.randn(shape, generator=torch.Generator().manual_seed(params.variation_seed))
        noise = slerp(noise[0], other[0], params.variation_strength)[None]
    return noise, generator


def slerp(low: torch.Tensor, high: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation of two C x h x w, column by column as A1111 does it (``modules/rng.py``)."""
    unit_low = low / torch.norm(low, dim=1, keepdim=True)
    unit_high = high / torch.norm(high, dim=1, keepdim=True)
    dot = (unit_low * unit_high).sum(1)
    if dot.mean() > 0.9995:
        return low * (1 - share) + high * share
    angle = torch.acos(dot.clamp(-1, 1))
    from_low = torch.sin((1.0 - share) * angle) / torch.sin(angle)
    from_high = torch.sin(share * angle) / torch.sin(angle)
    return from_low.unsqueeze(1) * low + from_high.unsqueeze(1) * high


class PinnedCopies(TorchDispatchMode):
    """Inside this context, CPU tensors are copied to the device from pinned memory, in stream order.

    torch's own copies from pageable memory wait until the device has finished all queued work.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                dtype = kwargs.get("dtype")
                source = args[0] if dtype is None else args[0].to(dtype)
                return func(source.contiguous().pin_memory(), **kwargs | {"non_blocking": True})
        elif func is torch.ops.aten.copy_.default and args[0].is_cuda and args[1].device.type == "cpu":
            source = args[1].to(args[0].dtype).contiguous().pin_memory()
            return func(args[0], source, True)
        return func(*args, **kwargs)


class AsyncCopies:
    """A block in which copies to a CUDA device do not synchronise. ``end_at`` can end it earlier."""

    def __init__(self, device: torch.device) -> None:
        self._stack = ExitStack()
        self._cuda = device.type == "cuda"

    def __enter__(self) -> Self:
        if self._cuda:
            self._stack.enter_context(PinnedCopies())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def end_at(self, module: torch.nn.Module) -> None:
        """End the block at the module's first call: the dispatch overhead would slow its many operations."""
        if self._cuda:
            hook = module.register_forward_pre_hook(lambda *_: self._stack.close())
            self._stack.callback(hook.remove)


def avoid_synchronisation(scheduler: Any, device: torch.device) -> None:
    """Keep a scheduler from synchronising, both to find its first step and to move noise to the device."""
    if device.type != "cuda" or not hasattr(scheduler, "set_begin_index"):
        return
    set_timesteps, step = scheduler.set_timesteps, scheduler.step

    @wraps(set_timesteps)  # pipelines read the signature
    def beginning(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs | {"device": "cpu"})
        first = scheduler.timesteps[:2].tolist()
        set_timesteps(*args, **kwargs)
        if len(set(first)) == 2:  # of two equal timesteps, a scheduler starts at the second
            scheduler.set_begin_index(0)

    @wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        with PinnedCopies():
            return step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = beginning, stepping
