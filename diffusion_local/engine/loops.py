"""The denoising loops that a picture goes through: its first pass, and those of a second pass at a larger size."""

from dataclasses import dataclass, replace

from diffusion_local.domain import Kind, Params
from diffusion_local.engine import img2img
from diffusion_local.options.hires import Box, Size, schedule


@dataclass(frozen=True, slots=True)
class Loop:
    """``params`` are those of the pass with the size, steps and kind of work of this loop.

    ``skipped`` steps of its schedule are left out at the beginning; ``done`` steps of the picture count as done before
    it. ``box`` is the part of the enlarged picture of size ``whole`` that a loop of a second pass makes.
    """

    params: Params
    number: int
    skipped: int
    done: int
    whole: Size
    box: Box | None = None

    @property
    def made(self) -> int:
        """Steps that are made."""
        return self.params.steps - self.skipped

    @property
    def end(self) -> int:
        """Steps of the picture that are done after it."""
        return self.done + self.made

    @property
    def is_tile(self) -> bool:
        return self.box is not None and self.box != (0, 0, *self.whole)


def loops_of(params: Params) -> list[Loop]:
    skipped = img2img.skipped_steps(params.steps, params.strength) if params.source else 0
    first = Loop(params, 0, skipped, skipped, (params.width, params.height))
    second = params.second
    if second is None:
        return [first]
    steps, left_out = schedule(second.steps, params.hires_strength)
    width, height = second.loop_size
    part = replace(params, kind=Kind.IMG2IMG, width=width, height=height, steps=steps)
    loops = [
        Loop(part, number, left_out, params.steps + (number - 1) * second.steps, second.size, box)
        for number, box in enumerate(second.boxes, 1)
    ]
    return [first, *loops] if params.has_first_pass else loops
