"""Receives the steps of a running pipeline and reports them to the parts of its pass."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image as PIL

from diffusion_local.engine import Held, Part, Pass, Preview, samplers
from diffusion_local.engine.loops import Loop

#: Starts drawing a preview of latents for the picture at a place; see ``Preview``.
Previewer = Callable[[torch.Tensor, int], Callable[[], PIL.Image]]
#: (index of the denoiser call, latents after it) -> latents to continue with.
Change = Callable[[int, torch.Tensor], torch.Tensor]
#: (index of the denoiser call, the pipeline's tensors by name) -> tensors to replace for the next call.
Turn = Callable[[int, dict[str, torch.Tensor]], dict[str, torch.Tensor]]
#: (denoiser calls, whole steps, latents) -> the state from which the pass can resume.
Hold = Callable[[int, int, torch.Tensor], Held]


#: Seconds before the end of a step by which the next one must have been launched.
LEAD = 0.006
#: Number of latest steps from which the launch time is estimated.
RECENT_STEPS = 8


class Interrupted(Exception):
    """Raised through a pipeline when no part of the pass is left, or the pass is suspended."""


class Steps:
    """A ``callback_on_step_end`` for diffusers: reports whole steps to the parts of a pass.

    An exception raised by a part becomes that part's problem. ``latents``: those after the latest denoiser call, in the
    pipeline's layout between steps.
    """

    def __init__(self, crew: Pass) -> None:
        self._crew = crew
        self.latents: torch.Tensor | None = None
        #: Completed denoiser calls of the loop, including those before the pass was suspended.
        self.calls = 0
        self._preview: Previewer | None = None
        self._loop: Loop | None = None
        self._before = 0
        self._change: Change | None = None
        self._turn: Turn | None = None
        self._hold: Hold | None = None
        self._scheduler: Any = None
        self._estimate: Callable[[], torch.Tensor | None] = lambda: None
        self._pace: Pace | None = None

    def follow(
        self,
        loop: Loop,
        scheduler: Any,
        preview: Previewer | None,
        change: Change | None = None,
        turn: Turn | None = None,
        hold: Hold | None = None,
        before: int = 0,
    ) -> None:
        """Prepare for a loop. ``preview`` draws latents; ``change(index, latents)`` is applied to the latents of each
        step; ``turn(index, tensors)`` sets the next call's prompt; without ``hold`` the pass cannot be suspended.
        ``before``: denoiser calls made before the pass was suspended.
        """
        self._loop, self._scheduler, self._preview, self.calls = loop, scheduler, preview, before
        self._change, self._turn, self._hold, self._before = change, turn, hold, before
        self._estimate = samplers.capture_estimate(scheduler)

    @property
    def completed_steps(self) -> int:
        """Completed whole steps of the loop, including those before it was suspended."""
        return self.calls // int(self._scheduler.order)

    def keep_pace(self, device: torch.device) -> None:
        """If the pass can be suspended, keep it from launching CUDA steps far ahead of the device."""
        self._pace = Pace(partial(mark, device)) if device.type == "cuda" and self._crew.wanted else None

    def __call__(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """A second-order sampler (Heun) calls twice per step, except for the last step, which has one call.

        Raises Interrupted when the pass is suspended or no part is left.
        """
        if self._pace is not None:
            self._pace.launched()
        index += self._before
        calls, order = index + 1, self._scheduler.order
        self.calls = calls
        assert self._loop is not None
        done = self._loop.done - (-calls // order)
        ends = calls == self._before + getattr(pipe, "num_timesteps", -1)  # not every pipeline has it
        last = ends or done >= self._loop.end
        changed = {"latents": self._change(index, tensors["latents"])} if self._change else {}
        if self._turn:
            changed |= self._turn(index, tensors)
        self.latents = changed.get("latents", tensors["latents"])
        if calls % order == 0 or last:
            self.report(done, self.latents)
            if not last and self._hold and self._crew.wanted:
                if self._pace is not None:
                    self._pace.wait()
                if self._crew.wanted():
                    self._crew.held = self._hold(calls, done, self.latents)
                    raise Interrupted
        return changed

    def report(self, step: int, latents: torch.Tensor | None = None) -> None:
        """Report ``step`` completed steps. Raises Interrupted if no part is left."""
        preview = self._preview_latents(latents)
        for part in self._crew.live:
            try:
                part.on_step(step, self._picture(part, preview))
            except BaseException as error:
                part.problem = error
        if not self._crew.live:
            raise Interrupted

    def _preview_latents(self, latents: torch.Tensor | None) -> torch.Tensor | None:
        if latents is None or self._preview is None:
            return None
        estimate = self._estimate()
        return latents if estimate is None else estimate

    def _picture(self, part: Part, latents: torch.Tensor | None) -> Preview | None:
        if latents is None or self._preview is None:
            return None
        return partial(self._preview, latents[part.place : part.place + 1], part.place)


class Pace:
    """Waits until the device has nearly finished the latest step.

    A job that interrupts the pass thus waits for that step only, not for work launched ahead. The device never idles:
    the time to launch a step, and by how much ``sleep`` oversleeps, are estimated from the latest steps.
    """

    def __init__(
        self,
        mark: Callable[[], Callable[[], None]],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``mark``: marks the work launched so far and returns a function that waits for its end."""
        self._mark, self._clock, self._sleep = mark, clock, sleep
        self._launched: deque[Callable[[], None]] = deque()
        self._ended: float | None = None
        self._shortest = float("inf")  # the minimum, because a step that was launched late takes longer
        self._returned: float | None = None
        self._launching: deque[float] = deque([0.0], RECENT_STEPS)
        self._late: deque[float] = deque([0.0], RECENT_STEPS)

    def launched(self) -> None:
        """Record that the first work after ``wait`` has been launched."""
        if self._returned is not None:
            self._launching.append(self._clock() - self._returned)
            self._returned = None

    def wait(self) -> None:
        """Wait until the step before the latest one has ended, then until shortly before the latest ends."""
        self._launched.append(self._mark())
        if len(self._launched) >= 2:
            self._launched.popleft()()
            now = self._clock()
            if self._ended is not None:
                self._shortest = min(self._shortest, now - self._ended)
                self._pause(self._shortest - LEAD - max(self._launching) - max(self._late))
            self._ended = now
        self._returned = self._clock()

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            began = self._clock()
            self._sleep(seconds)
            self._late.append(self._clock() - began - seconds)


def mark(device: torch.device) -> Callable[[], None]:
    """Mark the work launched on a CUDA device so far; the function returned waits for its end without spinning."""
    with torch.cuda.device(device):
        event = torch.cuda.Event(blocking=True)
        event.record()
    return event.synchronize
