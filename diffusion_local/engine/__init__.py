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

#: Starts a small preview on the thread that makes the picture; the function it returns finishes it on any thread.
Preview = Callable[[], Callable[[], PIL.Image]]
#: Called after each denoising step with the number of steps done (1 = first) and its preview, or None. ``generate``
#: passes on whatever it raises (Stopped, LostClaim).
OnStep = Callable[[int, "Preview | None"], None]


#: Waits until the device has made a picture, and returns it (RGB) with further facts. Raises EngineError.
Finish = Callable[[], tuple[PIL.Image, dict[str, Any]]]


class Picture:
    """A picture (RGB) and the facts about its generation for its recipe (device, dtype, versions).

    The device may still be working on it: ``image`` waits, on any thread, and only then are ``facts`` complete.
    ``image`` raises EngineError if the picture is unusable. The fact ``incomplete`` maps the option of each final step
    that failed (details, background) to its problem; the picture is then the one before that step.
    """

    def __init__(self, image: PIL.Image | Finish, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts if facts is not None else {}
        #: Called repeatedly during slow final steps; whatever it raises ends the step and the picture.
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
    """State of a pass that was interrupted between two steps, from which the engine can continue."""

    @property
    def steps(self) -> int:
        """Steps done."""
        ...


@dataclass(slots=True, eq=False)
class Part:
    """One picture of a pass. ``place``: its index in the pass, set when the pass starts.

    An exception from ``on_step`` ends only this part. When the part ends, ``made`` or ``problem`` is set.
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


class Helper(Protocol):
    """The GPU of an idle worker, lent to a pass. Used on the thread that runs the pass."""

    def slot(self) -> str:
        """The slot whose GPU may compute half of the next step, "" for none. Called before each step."""
        ...

    def refuse(self) -> None:
        """The engine cannot use that GPU."""
        ...


@dataclass(slots=True, eq=False)
class Pass:
    """Pictures that are denoised in one loop. Their params differ only in prompts and seed.

    ``size``: number of places in the loop, set by the engine; places without a part are filled with copies. ``wanted``
    is called between steps and returns whether the device is needed for something else; if so, ``run`` returns with
    ``held`` set, and running the pass again continues from there, to the same pixels. ``rung``: the memory policy's
    rung on which the pass runs. Parts that cannot share the loop, such as one with a longer prompt, are moved to
    ``left`` unchanged. With ``helper``, or with ``Params.gpus`` 2, a new pass is made in halves if the engine can do
    so; the pixels do not depend on whether and when the helper is there.
    """

    parts: list[Part]
    wanted: Callable[[], bool] | None = None
    size: int = 0
    held: Held | None = None
    rung: str = ""
    left: list[Part] = field(default_factory=list)
    helper: Helper | None = None

    @property
    def live(self) -> list[Part]:
        return [part for part in self.parts if part.live]

    def place_of(self, part: Part) -> dict[str, str]:
        """The recipe's fact from which ``Params.place`` is restored; empty for a picture made alone."""
        return {"place": f"{part.place + 1}/{self.size}"} if self.size > 1 else {}


def assign_places(crew: Pass) -> None:
    """Set the size of a new pass and the places of its parts; surplus parts move to ``left``.

    Sizes are powers of two, so that few CUDA graphs serve lists of any length. A first part with ``params.place`` runs
    alone at that place.
    """
    pinned = crew.parts[0].params.place
    crew.size = 2 ** (min(len(crew.parts), MOST_TOGETHER).bit_length() - 1)
    places = 1 if pinned else crew.size
    crew.parts, left = crew.parts[:places], crew.parts[places:]
    crew.left = left + crew.left
    for place, part in enumerate(crew.parts):
        part.place = place
    if pinned:
        crew.parts[0].place, crew.size = parse_pass_position(pinned)


#: Called while a model is loaded, with the share of its bytes loaded so far (0 to 1); not called for a model in memory.
#: ``load`` passes on whatever it raises.
OnProgress = Callable[[float], None]


class Engine(Protocol):
    """Turns Params into pictures on one device, without knowledge of jobs, the database or the home's files."""

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
        """The rungs (``options.types.RUNGS``) of this device, best first."""
        ...

    @property
    def loaded(self) -> str:
        """Id of the model loaded last and still in memory, or ""."""
        ...

    def plan(
        self, model: Model, params: Params, learned: Sequence[Fit], rung: str = "", together: int = 1
    ) -> RungChoice:
        """How to hold a model for passes of ``together`` such pictures, given the free memory and ``learned``
        measurements; ``rung``: the requested one. The rung does not depend on ``together``.
        """
        ...

    def free(self) -> int:
        """Bytes of device memory available to models, including what can be unloaded."""
        ...

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        """Bring this model into memory as chosen; others stay while there is room.

        Raises ModelUnavailable or OutOfMemory, after which no model is loaded, and whatever ``on_progress`` raises.
        """
        ...

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        """Make one picture with the loaded model. Equal params give equal pixels on the same device and rung.

        It may return once all work is queued on the device. Raises EngineError (OutOfMemory, BadImage) and whatever
        ``on_step`` raises; the engine remains usable after each of them.
        """
        ...

    def run(self, crew: Pass) -> None:
        """Make several pictures in one loop with the loaded model; see ``Pass`` and ``Part``.

        A part's pixels depend on its params, the size of the pass and its place there, not on the other parts. Raises
        EngineError for problems of the whole pass (OutOfMemory, DeviceLost, ModelUnavailable); parts already made keep
        their pictures.
        """
        ...

    def serialize_held(self, held: Held) -> bytes:
        """A held pass as bytes for ``restore_held``, which may run in another process."""
        ...

    def restore_held(self, data: bytes) -> Held | None:
        """The held pass of these bytes. None if they are damaged, or were written with another version, device or
        setting, with which the pixels would differ.
        """
        ...

    def helper_bytes(self, model: Model, params: Params) -> int:
        """Bytes of device memory that a ``Helper`` needs for such a picture; 0 if it cannot be made in halves."""
        ...

    def drop_helper(self) -> None:
        """Free the memory of a ``Helper``'s GPU, after it has finished what was launched there."""
        ...

    def make_room(self, size: int) -> bool:
        """Unload models until ``size`` bytes of the device are free for another process; returns whether they are."""
        ...

    def free_caches(self) -> bool:
        """Unload every other model and the loaded one's CUDA graphs; returns whether that freed anything."""
        ...

    def unload(self) -> None:
        """Unload all models."""
        ...
