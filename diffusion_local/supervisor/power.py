"""Protects the hardware: rests the batch lane while a GPU is hot or used by other programs, and puts the machine to
sleep when all lists are done.

Interactive jobs still run. A user's own pause is independent of a rest; a user's resume ends a rest until its cause
recurs.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from diffusion_local.compose import Services
from diffusion_local.domain import utc_text
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import Message, concatenate, message
from diffusion_local.system import gpus
from diffusion_local.system.gpus import Gpu, used_by_others

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
COOLER_BY = 8  # °C below the limit before work resumes, to avoid oscillation
FREE_SECONDS = 30.0  # how long no other program may have used the GPU before work resumes
NOTICE = timedelta(seconds=60)  # between announcing sleep and going to sleep
COMMANDS = {
    "linux": {"sleep": ["systemctl", "suspend"], "shutdown": ["systemctl", "poweroff"]},
    "darwin": {
        "sleep": ["pmset", "sleepnow"],
        "shutdown": ["osascript", "-e", 'tell application "System Events" to shut down'],
    },
    "win32": {
        "sleep": ["rundll32.exe", "powrprof.dll,SetSuspendState", "0,1,0"],
        "shutdown": ["shutdown", "/s", "/t", "0"],
    },
}


def run_command(command: list[str]) -> None:
    """Run a command. Raises OSError and subprocess.SubprocessError."""
    subprocess.run(command, check=True, capture_output=True, timeout=30)


class PowerPolicy:
    """One per home, in the supervisor. ``poll`` is called often and works every POLL_SECONDS."""

    def __init__(
        self,
        services: Services,
        read: Callable[[], list[Gpu]] = gpus.read,
        run: Callable[[list[str]], None] = run_command,
    ) -> None:
        self._settings = services.settings
        self._control = services.control
        self._workers = services.workers
        self._queue = services.queue
        self._read = read
        self._run = run
        self._polled_at = float("-inf")
        self._resting = ""
        self._hot: set[int] = set()
        self._shared: dict[int, float] = {}  # by GPU: monotonic time at which another program was last seen on it
        self._since = utc_text(datetime.now(UTC))  # sleep follows only lists that end after this
        self._sleep_at = ""

    def start(self) -> None:
        """Clear the state announced by an earlier process."""
        self._control.set_rest("")
        self._control.announce_sleep("")

    def poll(self) -> None:
        now = time.monotonic()
        if now - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = now
        try:
            if self._settings.gpu_max_temp or self._settings.gpu_share == "wait":
                self._rest_if_needed(now)
            if self._settings.when_done != "nothing":
                self._sleep_if_done(datetime.now(UTC))
        except DatabaseProblem as problem:
            log.error("%s", problem)

    def stop(self) -> None:
        try:
            self.start()
        except DatabaseProblem as problem:
            log.error("%s", problem)

    # -- rest ------------------------------------------------------------------------------------------------------

    def _rest_if_needed(self, now: float) -> None:
        found = self._read()
        reason = concatenate(filter(None, (self._heat(found), self._share(found, now))))
        if bool(reason) == bool(self._resting):
            return  # also if a user has resumed the lane meanwhile: it rests again only when the cause recurs
        self._resting = reason
        self._control.set_rest(reason)
        if reason:
            log.warning("prompt lists pause: %s", reason)
        else:
            log.info("prompt lists continue")
            self._queue.ring()

    def _heat(self, devices: list[Gpu]) -> Message | None:
        limit = self._settings.gpu_max_temp
        if not limit:
            return None
        for gpu in devices:
            if gpu.temperature is not None and gpu.temperature > limit:
                self._hot.add(gpu.index)
            elif gpu.temperature is None or gpu.temperature <= limit - COOLER_BY:
                self._hot.discard(gpu.index)
        hot = [gpu for gpu in devices if gpu.index in self._hot]
        if not hot:
            return None
        temperatures = [message("gpu_at", gpu=gpu.slot, temperature=gpu.temperature) for gpu in hot]
        return message("gpu_hot", gpus=temperatures, limit=limit - COOLER_BY)

    def _share(self, devices: list[Gpu], now: float) -> Message | None:
        if self._settings.gpu_share != "wait":
            return None
        ours = {worker.pid: bool(worker.model) for worker in self._workers.list_all() if worker.status != "stopped"}
        for gpu in devices:
            if used_by_others(gpu, ours) > self._settings.gpu_share_mb * 10**6:
                self._shared[gpu.index] = now
        busy = sorted(index for index, seen in self._shared.items() if now - seen < FREE_SECONDS)
        return message("gpu_shared", gpus=[f"gpu{index}" for index in busy]) if busy else None

    # -- sleep -----------------------------------------------------------------------------------------------------

    def _sleep_if_done(self, now: datetime) -> None:
        """Announce sleep, and sleep after the notice unless new jobs arrive or a user cancels it."""
        announced = self._control.sleep_at()
        if utc_text(now) < self._since:  # the clock was set back
            self._since = utc_text(now)
        if self._sleep_at and not announced:  # a user wants the machine to stay awake
            self._sleep_at, self._since = "", utc_text(now)
            log.info("the machine stays awake")
            return
        done_at = self._control.idle_since(self._since)
        if done_at is None:  # jobs are queued or running, or no list has ended
            if announced:
                self._sleep_at = ""
                self._control.announce_sleep("")
                log.info("there is new work: the machine stays awake")
            return
        if not announced or datetime.fromisoformat(announced) > now + NOTICE:  # the latter: the clock was set back
            rested = now - datetime.fromisoformat(done_at)
            if not timedelta() <= rested < timedelta(minutes=self._settings.when_done_minutes):
                self._sleep_at = utc_text(now + NOTICE)
                self._control.announce_sleep(self._sleep_at)
                log.warning(
                    "all is done: %s at %s; `diffusion-local stay-awake` stops it", self._action(), self._sleep_at
                )
        elif now >= datetime.fromisoformat(announced):
            self._sleep_at, self._since = "", utc_text(now)
            self._control.announce_sleep("")
            self._run_action()

    def _action(self) -> str:
        return self._settings.when_done

    def _run_action(self) -> None:
        command = COMMANDS.get(sys.platform, COMMANDS["linux"])[self._action()]
        log.warning("all is done: %s", self._action())
        try:
            self._run(command)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("%s failed: %s", " ".join(command), error)
