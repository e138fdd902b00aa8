"""Prompts for parts of a picture: in a UNet's attention to text, a region's pixels read the prompt of the region.

Each cross attention is computed for the prompt of the picture and for that of each region, and the results are mixed by
the regions' masks. Attention to reference pictures (IP-Adapters), LoRAs and ControlNets work as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from diffusion_local.engine import conditioning
from diffusion_local.engine.graphs import denoiser_of, forward_replaced
from diffusion_local.engine.img2img import SourceCanvas
from diffusion_local.engine.loaded import Loaded
from diffusion_local.engine.passes import Loop
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import ModelUnavailable
from diffusion_local.grammar import schedules
from diffusion_local.messages import message
from diffusion_local.models.prompt_limits import understood
from diffusion_local.options.types import Region

#: (left, top, right, bottom) in pixels.
Box = tuple[float, float, float, float]
Attention = Callable[..., torch.Tensor]
#: Resolutions of a UNet: its latents are halved at most so often.
MOST_HALVINGS = 6


@dataclass(slots=True)
class Regional:
    """The regions of a pass, around the denoiser of one loop.

    ``texts``: of each region the embedding at each step, 1 x tokens x channels; ``shares``: of each region its weight
    at each latent, h x w; ``count`` pictures share the loop.
    """

    texts: list[list[torch.Tensor]]
    shares: list[torch.Tensor]
    steps: Steps
    count: int
    _sized: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    @contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Have the regions' prompts read where they count."""
        with ExitStack() as stack:
            if self.texts:
                for name, module in denoiser_of(pipe).named_modules():
                    if name.endswith(".attn2"):
                        stack.enter_context(forward_replaced(module, lambda own: partial(self.attend, own)))
            yield

    def attend(
        self, own: Attention, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **more: Any
    ) -> torch.Tensor:
        """A cross attention's result: rows of the negative prompt as they are, the others mixed by the masks.

        ``encoder_hidden_states`` has the pictures of IP-Adapters beside the text, if there are any.
        """
        whole = own(hidden_states, encoder_hidden_states=encoder_hidden_states, **more)
        if encoder_hidden_states is None:
            return whole
        rows = slice(-self.count, None)
        step = self.steps.whole
        shares = self.shares_at(hidden_states)
        mixed = whole[rows] * shares[-1]
        for texts, share in zip(self.texts, shares, strict=False):
            text = texts[min(step, len(texts) - 1)].to(hidden_states)
            given: Any = text.expand(self.count, -1, -1)
            if isinstance(encoder_hidden_states, tuple):
                given = (given, [each[rows] for each in encoder_hidden_states[1]])
            mixed = mixed + own(hidden_states[rows], encoder_hidden_states=given, **more) * share
        return torch.cat([whole[: -self.count], mixed])

    def shares_at(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Weights of each region, and last of the picture's prompt, at an attention's places: places x 1."""
        length = hidden_states.shape[1]
        if length not in self._sized:
            size = self.shares[0].shape
            rows, columns = next(each for each in halved(size) if each[0] * each[1] == length)
            spread = torch.nn.functional.adaptive_avg_pool2d(torch.stack(self.shares)[:, None], (rows, columns))
            each = spread.reshape(len(self.shares), length, 1)
            total = each.sum(0)
            each = each / total.clamp(min=1)
            self._sized[length] = [*each, 1 - total.clamp(max=1)]
        return [share.to(hidden_states) for share in self._sized[length]]


def halved(size: torch.Size | tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The sizes that a UNet halves its latents to."""
    rows, columns = size
    for _ in range(MOST_HALVINGS):
        yield rows, columns
        rows, columns = -(-rows // 2), -(-columns // 2)


def regions_of(loaded: Loaded, loop: Loop, canvas: SourceCanvas | None, steps: Steps, count: int) -> Regional:
    """The regions of a loop. Call with the text encoders in reach. Raises ModelUnavailable for other denoisers."""
    params = loop.params
    if not params.regions:
        return Regional([], [], steps, count)
    if not hasattr(loaded.pipe, "unet"):
        raise ModelUnavailable(message("no_regions", model=loaded.model.id))
    negative = understood(loaded.model, params.negative)[0]

    def embedded(text: str) -> torch.Tensor:
        found: torch.Tensor = conditioning.embed(loaded, params, text, negative)["prompt_embeds"]
        return found

    texts = [
        [embedded(text) for text in schedules.prompt_per_step(understood(loaded.model, region.prompt)[0], loop.made)]
        for region in params.regions
    ]
    rows, columns = loaded.family.latent_shape(loaded.pipe, params.width, params.height)[-2:]
    part = part_of(loop, canvas)
    shares = [share_of(region, part, (rows, columns)) for region in params.regions]
    return Regional(texts, shares, steps, count)


def part_of(loop: Loop, canvas: SourceCanvas | None) -> Box:
    """What a loop makes of the picture, as shares of it: all, a tile, or the area around what is repainted."""
    area = None if canvas is None else canvas.area
    box, whole = loop.box, loop.whole
    if box is None and area is not None:
        box, whole = area.box, area.picture.size
    if box is None:
        return 0.0, 0.0, 1.0, 1.0
    return box[0] / whole[0], box[1] / whole[1], box[2] / whole[0], box[3] / whole[1]


def share_of(region: Region, part: Box, size: tuple[int, int]) -> torch.Tensor:
    """The region's weight at each latent (h x w) of a part of the picture; in proportion where it ends within one."""
    rows = covered(region.y, region.y + region.height, part[1], part[3], size[0])
    columns = covered(region.x, region.x + region.width, part[0], part[2], size[1])
    return rows[:, None] * columns[None, :] * region.weight


def covered(start: float, end: float, first: float, last: float, count: int) -> torch.Tensor:
    """How much a span covers of each of ``count`` equal cells between ``first`` and ``last``: 0 to 1."""
    edges = torch.linspace(first, last, count + 1, dtype=torch.float64)
    low, high = edges[:-1].clamp(min=start), edges[1:].clamp(max=end)
    return ((high - low).clamp(min=0) / (edges[1:] - edges[:-1])).float()
