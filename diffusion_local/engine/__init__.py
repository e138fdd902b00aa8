"""The seam between the worker and whatever draws the picture. This file imports neither torch nor diffusers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image as PIL

from diffusion_local.catalog import Model
from diffusion_local.domain import Params

#: Called after each denoising step with the number of steps done (1 = first) and a function that draws a small
#: preview when called, or None. Whatever it raises (Stopped, LostClaim) leaves ``generate`` unchanged.
OnStep = Callable[[int, "Callable[[], PIL.Image] | None"], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture (RGB) and the facts of its making that belong in its recipe (device, dtype, versions)."""

    image: PIL.Image
    facts: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Turns Params into a picture on one device. Knows no job, no database, no file of ours."""

    @property
    def device(self) -> str:
        """The device in words, for people: ``CPU (2 threads)``, ``NVIDIA H100 80GB``."""
        ...

    @property
    def loaded(self) -> str:
        """Id of the model in memory, or an empty string."""
        ...

    def load(self, model: Model) -> None:
        """Have this model in memory. Raises ModelUnavailable or OutOfMemory; what was loaded before may be gone."""
        ...

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        """Make one picture with the loaded model. Equal params give equal pixels on the same device.

        Raises EngineError (OutOfMemory, BadImage) and whatever ``on_step`` raises; usable again after each of them.
        """
        ...

    def unload(self) -> None:
        """Free the memory."""
        ...
