"""A stand-in engine that draws test cards: no model, no torch, milliseconds per picture."""

import hashlib
import os
import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as PIL
from PIL import ImageDraw, ImageFont

from diffusion_local.domain import DeviceMemory, Fit
from diffusion_local.engine import Held, OnProgress, OnStep, Part, Pass, Picture, Preview, assign_places
from diffusion_local.engine.memory import GIB, LADDERS, RungChoice, Weights, choose, estimate
from diffusion_local.errors import EngineError, ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind

PREVIEW_SIZE = 256
_DIRECTIVE = re.compile(r"\[(fail|oom(?::[a-z_]+)?|crash|hang|flaky|slow:\d+(?:\.\d+)?)\]")


class TransientFault(EngineError):
    """A fault that does not recur when the job is retried."""

    transient = True


@dataclass(frozen=True, slots=True)
class HeldDrawing:
    """A held pass."""

    steps: int


class FakeEngine:
    """Draws prompt, seed and size on a gradient, step by step.

    Directives in the prompt make it fail at the end of step 2 (of step 1 if there is only one), before that step is
    reported:

        [fail]      EngineError
        [oom]       OutOfMemory on every rung
        [oom:RUNG]  OutOfMemory on every rung above this one
        [flaky]     a transient EngineError, only the first time this engine sees this seed
        [crash]     the process exits immediately with code 13
        [hang]      never returns
        [slow:0.5]  each step takes 0.5 seconds
    """

    device = "Test cards (no model)"
    room = DeviceMemory()
    ladder = LADDERS["cuda"]

    def __init__(self, step_seconds: float = 0.02) -> None:
        self._step_seconds = step_seconds
        self._model: Model | None = None
        self._rung = self.ladder[0]
        self._met: set[int] = set()
        self._helper = ""

    @property
    def loaded(self) -> str:
        return self._model.id if self._model else ""

    def plan(
        self, model: Model, params: Params, learned: Sequence[Fit], rung: str = "", together: int = 1
    ) -> RungChoice:
        return choose(self.ladder, model.id, estimate(Weights(), 2, 1, 1), self.free(), params, learned, rung)

    def free(self) -> int:
        return 8 * GIB

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        if not model.ready:
            raise ModelUnavailable(message("model_cannot_load", model=model.id, problem=model.problem))
        if on_progress is not None and self.loaded != model.id:
            on_progress(0.0)
            on_progress(1.0)
        self._model, self._rung = model, choice.rung if choice else self.ladder[0]

    def generate(self, params: Params, on_step: OnStep) -> Picture:
        part = Part(params, on_step)
        self.run(Pass([part]))
        return part.result()

    def run(self, crew: Pass) -> None:
        params, held = crew.parts[0].params, crew.held
        if self.loaded != params.model and params.kind is not Kind.UPSCALE:
            raise ModelUnavailable(message("not_loaded", model=params.model))
        if held is None:
            assign_places(crew)
        shared = held is None and params.guidance > 1 and (crew.helper is not None or params.gpus == 2)
        crew.held, started, helped = None, time.monotonic(), 0
        cards = {part: draw_card(part.params) for part in crew.live}
        for step in range((held.steps if held else 0) + 1, params.total_steps + 1):
            self._helper = crew.helper.slot() if shared and crew.helper else ""
            helped += bool(self._helper)
            each = max((self._seconds(part.params) for part in crew.live), default=0.0)
            time.sleep(each / 2 if self._helper else each)
            for part in crew.live:
                try:
                    if step == min(2, params.total_steps):
                        self._misbehave(_DIRECTIVE.findall(part.params.prompt), part.params.seed)
                    part.on_step(step, _preview(cards[part], step / params.total_steps))
                except OutOfMemory:
                    raise
                except BaseException as problem:
                    part.problem = problem
            if crew.live and step < params.total_steps and crew.wanted and crew.wanted():
                crew.held = HeldDrawing(step)
                return
        facts = {"engine": "fake", "device": self.device, "denoise_seconds": round(time.monotonic() - started, 3)}
        if shared:
            facts |= {"gpus": 2, "helped_steps": helped}
        for part in crew.live:
            part.made = Picture(cards[part], facts | crew.place_of(part))

    def _seconds(self, params: Params) -> float:
        """Duration of a step."""
        directives = _DIRECTIVE.findall(params.prompt)
        return next((float(each[5:]) for each in directives if each.startswith("slow:")), self._step_seconds)

    def serialize_held(self, held: Held) -> bytes:
        return str(held.steps).encode()

    def restore_held(self, data: bytes) -> Held | None:
        return HeldDrawing(int(data)) if data.isdigit() else None

    def helper_bytes(self, model: Model, params: Params) -> int:
        return GIB if params.guidance > 1 and params.kind is not Kind.UPSCALE else 0

    def drop_helper(self) -> None:
        self._helper = ""

    def make_room(self, size: int) -> bool:
        return size <= self.free()

    def free_caches(self) -> bool:
        return False

    def unload(self) -> None:
        self._model = None

    def _misbehave(self, directives: list[str], seed: int) -> None:
        for directive in directives:
            match directive:
                case "fail":
                    raise EngineError(message("fake_fail"))
                case "oom":
                    raise OutOfMemory
                case _ if directive.startswith("oom:"):
                    if self._rung in self.ladder[: self.ladder.index(directive[4:])]:
                        raise OutOfMemory
                case "crash":
                    os._exit(13)
                case "hang":
                    while True:
                        time.sleep(3600)
                case "flaky" if seed not in self._met:
                    self._met.add(seed)
                    raise TransientFault


def draw_card(params: Params) -> PIL.Image:
    """The finished test card (RGB): equal params give equal pixels."""
    size = width, height = params.final_size
    digest = hashlib.sha256(f"{params.prompt}\0{params.negative}\0{params.seed}".encode()).digest()
    hues = (f"hsl({byte * 360 // 256}, 60%, {light}%)" for byte, light in zip(digest, (32, 62, 75), strict=False))
    top, bottom, glow = (PIL.new("RGB", size, hue) for hue in hues)
    card = PIL.composite(bottom, top, PIL.linear_gradient("L").resize(size))
    card = PIL.composite(card, glow, PIL.radial_gradient("L").resize(size).point(lambda v: min(255, v + 60)))

    pen = ImageDraw.Draw(card)
    text = max(8, min(size) // 12)
    margin = text
    font = ImageFont.load_default(text)
    columns = max(4, int((width - 2 * margin) / (text * 0.56)))
    rows = max(1, int((height - 4 * margin) / (text * 1.25)))
    words = textwrap.wrap(params.prompt, columns, max_lines=rows, placeholder=" ...") or [""]
    pen.multiline_text((margin, margin), "\n".join(words), "white", font, stroke_width=1, stroke_fill="black")
    label = f"seed {params.seed}  {width}x{height}  {params.steps} steps"
    small = ImageFont.load_default(max(7, min(text, int((width - 2 * margin) / (len(label) * 0.56)))))
    pen.text((margin, height - margin), label, "white", small, anchor="ls")
    return card


def _preview(card: PIL.Image, done: float) -> Preview:
    """The card, at most 256 px on the long side, in blocks that get finer as ``done`` goes from 0 to 1."""

    def draw() -> PIL.Image:
        small = card.copy()
        small.thumbnail((PREVIEW_SIZE, PREVIEW_SIZE))
        blocks = (max(2, int(small.width * done**2)), max(2, int(small.height * done**2)))
        return small.resize(blocks, PIL.Resampling.BOX).resize(small.size, PIL.Resampling.NEAREST)

    return lambda: draw
