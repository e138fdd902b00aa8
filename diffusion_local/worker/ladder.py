"""Makes a picture on the rung of memory that should fit, and on the next one if it does not: the same job, anew."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from diffusion_local.domain import Fit, Params
from diffusion_local.engine import Engine, OnProgress, OnStep, Picture
from diffusion_local.engine.memory import RungChoice, below
from diffusion_local.errors import DatabaseProblem, OutOfMemory
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Model

log = logging.getLogger(__name__)


class Ladder:
    """The engine's ladder and what was learned of it.

    ``fits`` tells what is known of a model on a device, ``learn`` notes more. ``wanted``: the rung of the settings, or
    ``auto``.
    """

    def __init__(
        self, engine: Engine, fits: Callable[[str, str], list[Fit]], learn: Callable[[Fit], None], wanted: str
    ) -> None:
        self._engine = engine
        self._fits = fits
        self._note = learn
        self._wanted = "" if wanted == "auto" else wanted

    def make(
        self,
        model: Model,
        params: Params,
        on_progress: OnProgress,
        on_steps: Callable[[], OnStep],
        say: Callable[[str], None],
    ) -> Picture:
        """``on_steps`` gives a fresh ``on_step`` for each run; ``say`` is told what is being done about the memory.

        Raises what the engine raises, OutOfMemory only from the last rung.
        """
        engine, device = self._engine, self._engine.device
        learned = self._fits(model.id, device)
        choice = engine.plan(model, params, learned, params.rung or self._wanted)
        fit = next((each for each in learned if about(each, params)), None) or new_fit(params, device)
        known = fit
        down: list[str] = []
        while True:
            free = engine.free()
            try:
                engine.load(model, choice, on_progress)
                picture = engine.generate(params, on_steps())
                break
            except OutOfMemory as error:
                problem = str(error.__cause__ or error).splitlines()[0]
            if engine.spare():
                log.info("out of memory at %s: other models and CUDA graphs were put away", choice.rung)
                continue
            rung = below(engine.ladder, choice.rung)
            log.warning("out of memory at %s (%s)", choice.rung, problem)
            fit = replace(fit, failed=choice.rung, free_bytes=free)
            if not rung:
                self._learn(fit)
                raise OutOfMemory(hopeless(params, choice.rung))
            down.append(choice.rung)
            say(message("phase_stepping_down", how=message(f"rung_{rung}")))
            choice = RungChoice(rung, f"{choice.rung} ran out of memory: {message(f'rung_{rung}')}")
        peak = picture.facts.get("peak_bytes", 0)
        if down or (fit.worked, fit.peak_bytes < peak) != (choice.rung, False):
            fit = replace(fit, worked=choice.rung, peak_bytes=max(peak, fit.peak_bytes * (fit.worked == choice.rung)))
        if fit != known:
            self._learn(fit)
        memory = {"rung": choice.rung, "rung_why": choice.why} | ({"steps_down": down} if down else {})
        picture.facts.update(memory)
        return picture

    def _learn(self, fit: Fit) -> None:
        with suppress(DatabaseProblem):  # it is learned from a later picture
            self._note(fit)


def about(fit: Fit, params: Params) -> bool:
    return (fit.kind, fit.width, fit.height) == (params.kind, params.width, params.height)


def new_fit(params: Params, device: str) -> Fit:
    return Fit(params.model, params.kind, params.width, params.height, device)


def hopeless(params: Params, rung: str) -> Message:
    return message(
        "hopeless", model=params.model, size=f"{params.width}x{params.height}", rung=rung, how=message(f"rung_{rung}")
    )
