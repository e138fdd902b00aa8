"""Decides how a pass runs: its number of pictures, from durations measured on this device, and its memory rung.

A pass that runs out of memory is retried on the next rung.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

from diffusion_local.domain import Fit, Job, Lane
from diffusion_local.engine import Engine, OnProgress, Pass
from diffusion_local.engine.memory import GIB, RETRY_WITH, RungChoice, next_rung
from diffusion_local.errors import DatabaseProblem, OutOfMemory
from diffusion_local.messages import Message, message
from diffusion_local.models.catalog import Model
from diffusion_local.options.table import Params
from diffusion_local.options.types import Kind
from diffusion_local.options.values import MOST_TOGETHER
from diffusion_local.queue.estimates import Share, Work
from diffusion_local.queue.pass_sizes import best_size

log = logging.getLogger(__name__)

#: Below this many bytes for resident blocks, running out of memory leaves no block on the device.
LEAST_ROOM = GIB
#: Passes of a size to measure before judging it.
PASSES = 2


class Ladder:
    """Runs passes on the engine's memory rungs and learns which of them fit.

    ``fits`` returns the measurements of a model on a device; ``learn`` records one. ``rung``: the configured one, or
    ``auto``.
    """

    def __init__(
        self, engine: Engine, fits: Callable[[str, str], list[Fit]], learn: Callable[[Fit], None], rung: str
    ) -> None:
        self._engine = engine
        self._fits = fits
        self._note = learn
        self._configured_rung = "" if rung == "auto" else rung
        self._with_additions: dict[tuple[Any, ...], Fit] = {}
        self._most: dict[tuple[str, Kind, int, int], int] = {}
        self._room: dict[tuple[str, Kind, int, int], tuple[int, int]] = {}

    def largest_pass(self, model: Model, params: Params, size_limit: int) -> int:
        """The largest number of pictures, at most ``size_limit``, that should fit into memory in one pass."""
        engine = self._engine
        size = min(size_limit, self._most.get(size_key(params), size_limit))
        while size > 1:
            learned = self._learned(model, params)
            if engine.plan(model, params, learned, params.rung or self._configured_rung, size).takes <= engine.free():
                break
            size //= 2
        return max(1, size)

    def run(
        self,
        model: Model,
        crew: Pass,
        on_progress: OnProgress,
        begin: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Run a pass. ``begin`` is called before each attempt, ``say`` with a message about each change of memory use.

        After running out of memory the pass is first halved. On a rung that swaps the model's blocks, fewer blocks are
        then kept on the device. At last the next rung is tried. Raises the engine's errors, but OutOfMemory only from
        the last rung.
        """
        engine, device, params = self._engine, self._engine.device, crew.parts[0].params
        learned = self._learned(model, params)
        forced = params.rung or self._configured_rung if crew.held is None else crew.rung
        choice = engine.plan(model, params, learned, forced, max(crew.size, len(crew.parts)))
        choice = self._with_known_room(choice, params)
        fit = next((each for each in learned if same_size(each, params)), None) or new_fit(params, device)
        known = fit
        down: list[str] = []
        while True:
            free = engine.free()
            crew.rung = choice.rung
            try:
                engine.load(model, choice, on_progress)
                begin()
                engine.run(crew)
                break
            except OutOfMemory as error:
                problem = str(error.__cause__ or error).splitlines()[0]
            if engine.free_caches():
                log.info("out of memory at %s: other models and CUDA graphs were released", choice.rung)
                continue
            crew.held = None
            if len(live := crew.live) > 1:
                half = len(live) // 2
                log.warning("out of memory at %s with %d pictures: %d from now on", choice.rung, len(live), half)
                self._most[size_key(params)] = half
                crew.left = live[half:] + crew.left
                crew.parts = [part for part in crew.parts if part not in crew.left]
                continue
            if choice.room:
                choice = with_fewer_blocks(choice)
                log.warning("out of memory (%s): fewer blocks stay on the device", problem)
                self._room[size_key(params)] = choice.room, free
                say(message("phase_stepping_down", how=message("blocks_fewer")))
                continue
            rung = next_rung(engine.ladder, choice.rung)
            log.warning("out of memory at %s (%s)", choice.rung, problem)
            fit = replace(fit, failed=choice.rung, free_bytes=free)
            if not rung:
                self._record(fit, params)
                raise OutOfMemory(out_of_memory(params, choice.rung))
            down.append(choice.rung)
            say(message("phase_stepping_down", how=message(f"rung_{rung}")))
            choice = RungChoice(rung, f"{choice.rung} ran out of memory: {message(f'rung_{rung}')}")
        made = [part.made for part in crew.parts if part.made is not None]
        if made:
            peak = max(picture.facts.get("peak_bytes", 0) for picture in made) if crew.size == 1 else 0
            if down or (fit.worked, fit.peak_bytes < peak) != (choice.rung, False):
                earlier_peak = fit.peak_bytes * (fit.worked == choice.rung)
                fit = replace(fit, worked=choice.rung, peak_bytes=max(peak, earlier_peak))
        if fit != known:
            self._record(fit, params)
        for picture in made:
            picture.facts.update({"rung": choice.rung, "rung_why": choice.why} | ({"steps_down": down} if down else {}))

    def _with_known_room(self, choice: RungChoice, params: Params) -> RungChoice:
        """Reduce the room for resident blocks to the amount that fitted before, unless much more memory is free now."""
        room, free = self._room.get(size_key(params), (choice.room, 0))
        if room >= choice.room or self._engine.free() > free * RETRY_WITH:
            return choice
        return replace(choice, room=room, why=f"{choice.why}; {message('blocks_fewer')}")

    def _learned(self, model: Model, params: Params) -> list[Fit]:
        """Measurements that apply to a picture. Those with ControlNets and the like are kept apart, by their names, as
        long as the process runs: they tell nothing about other pictures of the same size.
        """
        if not params.additions:
            return self._fits(model.id, self._engine.device)
        found = self._with_additions.get((*size_key(params), *params.additions))
        return [] if found is None else [found]

    def _record(self, fit: Fit, params: Params) -> None:
        if params.additions:
            self._with_additions[(*size_key(params), *params.additions)] = fit
            return
        with suppress(DatabaseProblem):  # a later picture will provide the measurement
            self._note(fit)


def with_fewer_blocks(choice: RungChoice) -> RungChoice:
    """The choice after running out of memory: with less room for resident blocks, at last with none."""
    room = choice.room * 3 // 4 if choice.room > LEAST_ROOM else 0
    why = choice.why if choice.why.endswith(message("blocks_fewer")) else f"{choice.why}; {message('blocks_fewer')}"
    return replace(choice, room=room, why=why)


def same_size(fit: Fit, params: Params) -> bool:
    return (fit.kind, fit.width, fit.height) == (params.kind, *params.peak_size)


def size_key(params: Params) -> tuple[str, Kind, int, int]:
    return params.model, params.kind, *params.peak_size


def new_fit(params: Params, device: str) -> Fit:
    return Fit(params.model, params.kind, *params.peak_size, device)


def out_of_memory(params: Params, rung: str) -> Message:
    return message(
        "hopeless", model=params.model, size="{}x{}".format(*params.peak_size), rung=rung, how=message(f"rung_{rung}")
    )


#: Newest pictures of a size that are remembered: enough to judge the largest.
REMEMBERED = PASSES * MOST_TOGETHER


class PassSizes:
    """Chooses how many pictures share a pass. ``batch_size``: the setting: a number, or ``auto``.

    ``explores``: whether ``auto`` tries larger passes; otherwise it uses only sizes already measured to be faster.
    ``history`` returns durations of earlier pictures. One thread may ask while another records.
    """

    def __init__(self, batch_size: str, explores: bool, history: Callable[[Params], list[Share]]) -> None:
        self._fixed = 0 if batch_size == "auto" else int(batch_size)
        self._explores = explores
        self._history = history
        self._known: dict[Work, dict[int, deque[float]]] = {}
        self._met: dict[Work, set[int]] = defaultdict(set)

    def size_for(self, job: Job) -> int:
        """Pictures that should share a pass with this job's, its own included. Raises DatabaseProblem."""
        params = job.params
        if job.lane is not Lane.BATCH or job.crashes or params.kind is Kind.UPSCALE or params.place or params.gpus > 1:
            return 1
        if self._fixed:
            return min(self._fixed, MOST_TOGETHER)
        work = Work.of_params(params)
        if work not in self._known:
            known = {
                share.together: deque([share.seconds] * share.count, REMEMBERED) for share in self._history(params)
            }
            self._known[work] = known
        enough = {size: median(found) for size, found in self._known[work].items() if len(found) >= PASSES * size}
        return best_size(enough, params.total_steps, self._explores)

    def record(self, params: Params, together: int, seconds: float) -> bool:
        """Record the seconds per picture of a pass; returns whether it was the first of its kind and size.

        That one is ignored: it captures CUDA graphs.
        """
        work = Work.of_params(params)
        first = together not in self._met[work]
        if not first:
            self._known.setdefault(work, {}).setdefault(together, deque(maxlen=REMEMBERED)).extend([seconds] * together)
        self._met[work].add(together)
        return first
