"""The seam between the worker and whatever draws the picture. This file imports neither torch nor diffusers."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PIL import Image as PIL

from diffusion_local.domain import DeviceMemory, Fit, Params
from diffusion_local.engine.memory import RungChoice
from diffusion_local.models.catalog import Model

#: Called after each denoising step with the number of steps done (1 = first) and a function that draws a small
#: preview when called, or None. Whatever it raises (Stopped, LostClaim) leaves ``generate`` unchanged.
OnStep = Callable[[int, "Callable[[], PIL.Image] | None"], None]


#: Gives a picture (RGB) and further facts once the device has made it. Raises EngineError.
Finish = Callable[[], tuple[PIL.Image, dict[str, Any]]]


class Picture:
    """A picture (RGB) and the facts of its making that belong in its recipe (device, dtype, versions).

    The device may still be at work on it: ``image`` waits for it, on whatever thread, and only then are ``facts``
    complete. Where the picture turns out to be unusable ``image`` raises EngineError.
    """

    def __init__(self, image: PIL.Image | Finish, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts if facts is not None else {}
        self._lock = threading.Lock()
        self._finish = image if callable(image) else None
        self._image = None if callable(image) else image
        self._problem: Exception | None = None
        self.ready_at: float | None = None

    @property
    def image(self) -> PIL.Image:
        with self._lock:
            if self._finish is not None:
                finish, self._finish = self._finish, None
                try:
                    self._image, facts = finish()
                    self.facts.update(facts)
                except Exception as problem:
                    self._problem = problem
                self.ready_at = time.monotonic()
        if self._image is None:
            assert self._problem is not None
            raise self._problem
        return self._image


#: Called while a model is loaded with the share of its bytes that is there (0 to 1); not called where it was there
#: already. Whatever it raises leaves ``load`` unchanged.
OnProgress = Callable[[float], None]


class Engine(Protocol):
    """Turns Params into a picture on one device. Knows no job, no database, no file of ours."""

    @property
    def device(self) -> str:
        """The device in words, for people: ``CPU (2 threads)``, ``NVIDIA H100 80GB``."""
        ...

    @property
    def room(self) -> DeviceMemory:
        """The device as the memory policy sees it; empty where the engine holds no models."""
        ...

    @property
    def ladder(self) -> tuple[str, ...]:
        """The rungs (``params.RUNGS``) of this device, best first."""
        ...

    @property
    def loaded(self) -> str:
        """Id of the model loaded last and still in memory, or an empty string."""
        ...

    def plan(self, model: Model, params: Params, learned: Sequence[Fit], wanted: str = "") -> RungChoice:
        """How to hold a model for this picture, from what is free now and what was learned; ``wanted``: a rung."""
        ...

    def free(self) -> int:
        """Bytes of the device's memory that are free for models, those counted that can be put away."""
        ...

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        """Have this model in memory as chosen; others stay while there is room.

        Raises ModelUnavailable or OutOfMemory, after which no model is loaded, and whatever ``on_progress`` raises.
        """
        ...

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        """Make one picture with the loaded model. Equal params give equal pixels on the same device and rung.

        It may return once the device has been given all of the work. Raises EngineError (OutOfMemory, BadImage) and
        whatever ``on_step`` raises; usable again after each of them.
        """
        ...

    def spare(self) -> bool:
        """Put away every model but the loaded one, and what only makes that one faster. Whether there was any."""
        ...

    def unload(self) -> None:
        """Free the memory."""
        ...
