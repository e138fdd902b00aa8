"""A pass that is put aside between two steps, and how its loop is entered again at the step that follows.

The pipeline is called anew with the latents of then, and with a scheduler that is shown the steps that are left and has
the state that it had: the numbers are those of an undisturbed run, bit by bit.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any

import torch

from diffusion_local.engine.second_pass import Mosaic

log = logging.getLogger(__name__)

#: What a scheduler keeps from step to step, and no wrapper that was put around its methods.
_PLAIN = (bool, int, float, str, torch.Tensor, list, tuple, type(None))


@dataclass(frozen=True, slots=True)
class HeldLoop:
    """After ``calls`` of the denoiser in a loop, and ``steps`` whole steps of the picture.

    ``latents`` are as the pipeline has them. ``mosaic`` are the pictures that a second pass changes tile by tile.
    """

    calls: int
    steps: int
    latents: torch.Tensor
    scheduler: dict[str, Any]
    generators: list[torch.Tensor]
    loop: int = 0
    mosaic: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def capture(
        cls,
        loop: int,
        mosaic: Mosaic | None,
        scheduler: Any,
        generators: Sequence[torch.Generator],
        calls: int,
        steps: int,
        latents: torch.Tensor,
    ) -> "HeldLoop":
        state = {
            name: list(value) if isinstance(value, list) else value
            for name, value in vars(scheduler).items()
            if isinstance(value, _PLAIN) and not name.startswith("__")
        }
        states = [each.get_state() for each in generators]
        return cls(calls, steps, latents.clone(), state, states, loop, mosaic.tensors() if mosaic else [])

    def to_bytes(self, stamp: str) -> bytes:
        """``stamp`` identifies version, device and settings that computed it."""
        file = io.BytesIO()
        torch.save({"stamp": stamp} | {each.name: getattr(self, each.name) for each in fields(self)}, file)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, stamp: str) -> "HeldLoop | None":
        """None for damaged bytes, and for those with another stamp."""
        try:
            found = torch.load(io.BytesIO(data), weights_only=True)
            return cls(**found) if found.pop("stamp") == stamp else None
        except Exception as problem:  # whatever a damaged file makes of it
            log.warning("a picture that was put aside starts anew: %s", problem)
            return None


def resume(scheduler: Any, paused: HeldLoop, skipped_calls: int, scales_start: bool) -> None:
    """Make a fresh scheduler continue. ``skipped_calls`` were left out at the beginning of the picture.

    ``scales_start``: the pipeline multiplies what it is handed by ``init_noise_sigma``, which must be 1 for latents
    that are under way.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    whole: list[Any] = []

    @wraps(set_timesteps)  # pipelines read the signature
    def set_rest(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs)
        for name, value in paused.scheduler.items():
            setattr(scheduler, name, list(value) if isinstance(value, list) else value)
        whole[:] = [scheduler.timesteps]
        scheduler.timesteps = scheduler.timesteps[skipped_calls + paused.calls :]

    @wraps(step)
    def whole_step(*args: Any, **kwargs: Any) -> Any:
        scheduler.timesteps = whole[0]
        return step(*args, **kwargs)

    scheduler.set_timesteps, scheduler.step = set_rest, whole_step
    if scales_start:
        kind = type(scheduler)
        scheduler.__class__ = type(kind.__name__, (kind,), {"init_noise_sigma": 1.0})
