"""How a running pipeline tells of its steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import OnStep, samplers

#: A small picture of latents as the pipeline has them.
Preview = Callable[[torch.Tensor], PIL.Image]
#: New latents for those after a step, by the number of the call (0 = first).
Change = Callable[[int, torch.Tensor], torch.Tensor]
#: Other tensors of the pipeline for the call after this one, by their names there.
Turn = Callable[[int, dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class Steps:
    """diffusers' ``callback_on_step_end``: hands whole steps to ``on_step`` and remembers what that raises."""

    def __init__(self, on_step: OnStep) -> None:
        self.raised: BaseException | None = None
        self._on_step = on_step
        self._preview: Preview | None = None
        self._skipped = 0
        self._change: Change | None = None
        self._turn: Turn | None = None
        self._scheduler: Any = None
        self._estimate: Callable[[], torch.Tensor | None] = lambda: None

    def follow(
        self,
        scheduler: Any,
        preview: Preview | None,
        skipped: int = 0,
        change: Change | None = None,
        turn: Turn | None = None,
    ) -> None:
        """``preview`` draws latents; ``skipped`` steps count as done; ``change(index, latents)`` has the last word;
        ``turn(index, tensors)`` gives the next call another prompt."""
        self._scheduler, self._preview, self._skipped = scheduler, preview, skipped
        self._change, self._turn = change, turn
        self._estimate = samplers.watch(scheduler)

    def __call__(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """A second order sampler (Heun) calls twice a step, but for the last, which has one call."""
        calls, order = index + 1, self._scheduler.order
        changed = {"latents": self._change(index, tensors["latents"])} if self._change else {}
        if self._turn:
            changed |= self._turn(index, tensors)
        if calls % order == 0 or calls == pipe.num_timesteps:
            self.tell(self._skipped - (-calls // order), changed.get("latents", tensors["latents"]))
        return changed

    def tell(self, step: int, latents: torch.Tensor | None = None) -> None:
        """That so many steps are done."""
        try:
            self._on_step(step, None if latents is None else self._picture(latents))
        except BaseException as error:
            self.raised = error
            raise

    def _picture(self, latents: torch.Tensor) -> Callable[[], PIL.Image] | None:
        if self._preview is None:
            return None
        estimate = self._estimate()
        return partial(self._preview, latents if estimate is None else estimate)
