"""The interface between worker and engine. This file imports neither torch nor diffusers."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image as PIL

from diffusion_local.domain import DeviceMemory, Fit
from diffusion_local.engine.memory import RungChoice
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.values import MOST_TOGETHER, parse_pass_position

#: Begins to draw a small preview on the thread that makes the picture; the function it returns finishes on any thread.
Preview = Callable[[], Callable[[], PIL.Image]]
#: Called after each denoising step with the number of steps done (1 = first) and its preview, or None. Whatever it
#: raises (Stopped, LostClaim) leaves ``generate`` unchanged.
OnStep = Callable[[int, "Preview | None"], None]


#: Gives a picture (RGB) and further facts once the device has made it. Raises EngineError.
Finish = Callable[[], tuple[PIL.Image, dict[str, Any]]]


class Picture:
    """A picture (RGB) and the facts of its making that belong in its recipe (device, dtype, versions).

    The device may still be at work on it: ``image`` waits for it, on whatever thread, and only then are ``facts``
    complete. Where the picture turns out to be unusable ``image`` raises EngineError. The fact ``incomplete`` holds the
    problem of each last step that failed (details, background) by its option; the picture is as it was before it.
    """

    def __init__(self, image: PIL.Image | Finish, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts if facts is not None else {}
        #: Called now and then while a slow step finishes the picture; what it raises ends that step and the picture.
        self.check: Callable[[], None] = lambda: None
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


class Held(Protocol):
    """State of a pass that was interrupted between two steps, from which its engine continues."""

    @property
    def steps(self) -> int:
        """Steps done."""
        ...


@dataclass(slots=True, eq=False)
class Part:
    """One picture of a pass, at its ``place`` (0 is the first) once it runs.

    What ``on_step`` raises ends this part and no other. In the end ``made`` or ``problem`` is set.
    """

    params: Params
    on_step: OnStep
    place: int = 0
    made: Picture | None = None
    problem: BaseException | None = None

    @property
    def live(self) -> bool:
        return self.made is None and self.problem is None

    def check(self) -> None:
        """Raise the part's problem, if any."""
        if self.problem is not None:
            raise self.problem

    def result(self) -> Picture:
        """The picture. Raises the part's problem."""
        self.check()
        assert self.made is not None
        return self.made


@dataclass(slots=True, eq=False)
class Pass:
    """Pictures that are denoised in one loop. Their params differ in prompts and seed only.

    ``size`` is the number of places in the loop, set by the engine; a place without a part is filled with a copy.
    ``wanted`` is asked between two steps whether the device is needed for something else. Where it is, ``run`` returns
    with ``held`` set, and running the pass again continues from there, to the same pixels. ``rung`` is that of the
    memory policy on which it runs. Parts that cannot share the loop, such as one with a longer prompt, are moved to
    ``left``, untouched.
    """

    parts: list[Part]
    wanted: Callable[[], bool] | None = None
    size: int = 0
    held: Held | None = None
    rung: str = ""
    left: list[Part] = field(default_factory=list)

    @property
    def live(self) -> list[Part]:
        return [part for part in self.parts if part.live]

    def place_of(self, part: Part) -> dict[str, str]:
        """The fact of a recipe that ``Params.place`` is made of; nothing for a picture that was made alone."""
        return {"place": f"{part.place + 1}/{self.size}"} if self.size > 1 else {}


def assign_places(crew: Pass) -> None:
    """Set the size of a new pass and the places of its parts; surplus parts move to ``left``.

    Sizes are powers of two, so that few CUDA graphs serve all lists. A picture with a given place gets it.
    """
    pinned = crew.parts[0].params.place
    crew.size = 2 ** (min(len(crew.parts), MOST_TOGETHER).bit_length() - 1)
    kept = 1 if pinned else crew.size
    crew.parts, left = crew.parts[:kept], crew.parts[kept:]
    crew.left = left + crew.left
    for place, part in enumerate(crew.parts):
        part.place = place
    if pinned:
        crew.parts[0].place, crew.size = parse_pass_position(pinned)


#: Called while a model is loaded with the share of its bytes that is there (0 to 1); not called where it was there
#: already. Whatever it raises leaves ``load`` unchanged.
OnProgress = Callable[[float], None]


class Engine(Protocol):
    """Turns Params into pictures on one device. Knows no jobs, no database and no files of the home."""

    @property
    def device(self) -> str:
        """The device's display name: ``CPU (2 threads)``, ``NVIDIA H100 80GB``."""
        ...

    @property
    def room(self) -> DeviceMemory:
        """The device's memory, as the memory policy uses it; empty if the engine holds no models."""
        ...

    @property
    def ladder(self) -> tuple[str, ...]:
        """The rungs (``params.RUNGS``) of this device, best first."""
        ...

    @property
    def loaded(self) -> str:
        """Id of the model loaded last and still in memory, or ""."""
        ...

    def plan(
        self, model: Model, params: Params, learned: Sequence[Fit], wanted: str = "", together: int = 1
    ) -> RungChoice:
        """How to hold a model for passes of ``together`` such pictures, from what is free now and what was learned;
        ``wanted``: a rung. More than one picture never changes the rung."""
        ...

    def free(self) -> int:
        """Bytes of device memory available to models, including what can be unloaded."""
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

    def run(self, crew: Pass) -> None:
        """Make several pictures in one loop with the loaded model; see ``Pass`` and ``Part``.

        A part's pixels depend on its params, the size of the pass and its place there, not on the other
        parts. Raises EngineError for what concerns the pass as a whole (OutOfMemory, DeviceLost, ModelUnavailable);
        parts that were made already stay so.
        """
        ...

    def serialize_held(self, held: Held) -> bytes:
        """A held pass as bytes, from which ``restore_held`` restores it, also in another process."""
        ...

    def restore_held(self, data: bytes) -> Held | None:
        """The held pass of these bytes; None where they are damaged, or where this engine would continue with other
        pixels: another version, device or setting wrote them."""
        ...

    def free_caches(self) -> bool:
        """Unload every other model and the loaded one's CUDA graphs; returns whether that freed anything."""
        ...

    def unload(self) -> None:
        """Unload all models."""
        ...
