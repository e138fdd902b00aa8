"""Regional prompts: in a UNet's cross-attention, each region's pixels attend to the prompt of that region.

Every cross-attention is computed for the picture's prompt and for each region's prompt, and the results are blended by
the regions' masks. IP-Adapters, LoRAs and ControlNets work unchanged.
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
from diffusion_local.engine.loops import Loop
from diffusion_local.engine.steps import Steps
from diffusion_local.errors import ModelUnavailable
from diffusion_local.grammar import schedules
from diffusion_local.messages import message
from diffusion_local.models.starter_words import understood
from diffusion_local.options.types import Region

#: (left, top, right, bottom) in pixels.
Box = tuple[float, float, float, float]
Attention = Callable[..., torch.Tensor]
#: Number of resolutions to try for a UNet's attention, each half the one before.
MOST_HALVINGS = 6


@dataclass(slots=True)
class Regional:
    """The regions of a loop, applied around its denoiser.

    ``texts``: per region, the prompt embedding of each step (1 x tokens x channels); ``shares``: per region, its weight
    at each latent (h x w); ``count``: number of pictures in the loop.
    """

    texts: list[list[torch.Tensor]]
    shares: list[torch.Tensor]
    steps: Steps
    count: int
    _sized: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    @contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Replace the cross-attention of the pipeline's denoiser by `attend`."""
        with ExitStack() as stack:
            if self.texts:
                for name, module in denoiser_of(pipe).named_modules():
                    if name.endswith(".attn2"):
                        stack.enter_context(forward_replaced(module, lambda own: partial(self.attend, own)))
            yield

    def attend(
        self, own: Attention, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **more: Any
    ) -> torch.Tensor:
        """A cross-attention's output: rows of the negative prompt unchanged, the others blended by the masks.

        With IP-Adapters, ``encoder_hidden_states`` is a tuple of the text and the picture embeddings.
        """
        whole = own(hidden_states, encoder_hidden_states=encoder_hidden_states, **more)
        if encoder_hidden_states is None:
            return whole
        rows = slice(-self.count, None)
        step = self.steps.completed_steps
        shares = self.shares_at(hidden_states)
        mixed = whole[rows] * shares[-1]
        for texts, share in zip(self.texts, shares, strict=False):
            text = texts[min(step, len(texts) - 1)].to(hidden_states)
            states: Any = text.expand(self.count, -1, -1)
            if isinstance(encoder_hidden_states, tuple):
                states = (states, [each[rows] for each in encoder_hidden_states[1]])
            mixed = mixed + own(hidden_states[rows], encoder_hidden_states=states, **more) * share
        return torch.cat([whole[: -self.count], mixed])

    def shares_at(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Weights at each position of an attention layer (positions x 1): per region, then for the picture's prompt."""
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
    """Sizes (rows, columns) of a UNet's latents at each resolution, the full one first."""
    rows, columns = size
    for _ in range(MOST_HALVINGS):
        yield rows, columns
        rows, columns = -(-rows // 2), -(-columns // 2)


def regions_of(loaded: Loaded, loop: Loop, canvas: SourceCanvas | None, steps: Steps, count: int) -> Regional:
    """The regions of a loop. Call before the text encoders are offloaded.

    Raises ModelUnavailable if the denoiser is not a UNet.
    """
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
        [
            embedded(text)
            for text in schedules.prompt_per_step(understood(loaded.model, region.prompt)[0], loop.steps_run)
        ]
        for region in params.regions
    ]
    rows, columns = loaded.family.latent_shape(loaded.pipe, params.width, params.height)[-2:]
    part = part_of(loop, canvas)
    shares = [share_of(region, part, (rows, columns)) for region in params.regions]
    return Regional(texts, shares, steps, count)


def part_of(loop: Loop, canvas: SourceCanvas | None) -> Box:
    """The part of the picture that a loop covers, in shares (0 to 1): all, a tile, or the area around the mask."""
    area = None if canvas is None else canvas.area
    box, whole = loop.box, loop.whole
    if box is None and area is not None:
        box, whole = area.box, area.picture.size
    if box is None:
        return 0.0, 0.0, 1.0, 1.0
    return box[0] / whole[0], box[1] / whole[1], box[2] / whole[0], box[3] / whole[1]


def share_of(region: Region, part: Box, size: tuple[int, int]) -> torch.Tensor:
    """A region's weight at each latent (h x w) of a part of the picture, proportional where it covers a fraction."""
    rows = covered(region.y, region.y + region.height, part[1], part[3], size[0])
    columns = covered(region.x, region.x + region.width, part[0], part[2], size[1])
    return rows[:, None] * columns[None, :] * region.weight


def covered(start: float, end: float, first: float, last: float, count: int) -> torch.Tensor:
    """The covered fraction (0 to 1) of each of ``count`` equal cells between ``first`` and ``last``."""
    edges = torch.linspace(first, last, count + 1, dtype=torch.float64)
    low, high = edges[:-1].clamp(min=start), edges[1:].clamp(max=end)
    return ((high - low).clamp(min=0) / (edges[1:] - edges[:-1])).float()
