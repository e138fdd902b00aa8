"""How a running pipeline tells of its steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import OnStep, previews, samplers


class Steps:
    """diffusers' ``callback_on_step_end``: hands whole steps to ``on_step`` and remembers what that raises."""

    def __init__(self, on_step: OnStep, factors: previews.Factors | None) -> None:
        self.raised: BaseException | None = None
        self._on_step = on_step
        self._factors = factors
        self._order = 1
        self._estimate: Callable[[], torch.Tensor | None] = lambda: None

    def follow(self, scheduler: Any) -> None:
        self._order = scheduler.order
        self._estimate = samplers.watch(scheduler)

    def __call__(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """A second order sampler (Heun) calls twice a step, but for the last, which has one call."""
        calls = index + 1
        if calls % self._order == 0 or calls == pipe.num_timesteps:
            try:
                self._on_step(-(-calls // self._order), self._preview(tensors["latents"]))
            except BaseException as error:
                self.raised = error
                raise
        return {}

    def _preview(self, latents: torch.Tensor) -> Callable[[], PIL.Image] | None:
        if self._factors is None:
            return None
        estimate = self._estimate()
        return partial(previews.draw, latents if estimate is None else estimate, self._factors)
