"""``worker --join``: keeps one worker process per device running for a studio on another machine."""

import logging
import subprocess
import time
from collections.abc import Sequence

from diffusion_local.settings import Settings
from diffusion_local.supervisor import exit_causes
from diffusion_local.supervisor.supervisor import POLL_SECONDS, STEADY_SECONDS, STOP_SECONDS, Child
from diffusion_local.worker.stopping import Stop, listen_to_signals

log = logging.getLogger(__name__)

REFUSED_STATUS = 2  # exit status of a worker that must not be restarted; it has printed the reason


def keep_running(settings: Settings, slots: Sequence[str], studio: str, machine: str) -> int:
    """Run workers until asked to stop; returns the exit status, which is not 0 if a worker was refused.

    A worker that dies or whose device fails is restarted, because a device works again in a new process.
    """
    stop = Stop(finish_first=settings.on_stop == "finish")
    listen_to_signals(stop)
    children = [
        Child(
            f"worker {slot}", "diffusion_local.worker", ("--slot", slot, "--join", studio, "--machine", machine), slot
        )
        for slot in slots
    ]
    status = 0
    while not stop.wanted.is_set() and not status:
        for child in children:
            status = status or restarted(child, settings)
        stop.wanted.wait(POLL_SECONDS)
    end(children, stop)
    return status


def restarted(child: Child, settings: Settings) -> int:
    """Start a child that is not running and is due; returns REFUSED_STATUS if it must not be restarted, else 0."""
    if child.alive:
        return 0
    if child.process is not None:
        if child.process.returncode == REFUSED_STATUS:
            return REFUSED_STATUS
        death = exit_causes.exit_cause(child.process.pid, child.process.returncode, child.kills)
        child.process = None
        wait = child.plan_restart(time.monotonic() - child.started > STEADY_SECONDS)
        log.warning("%s: %s; again in %.1f s", child.name, death.text, wait)
    if time.monotonic() >= child.due:
        child.start(settings)
    return 0


def end(children: Sequence[Child], stop: Stop) -> None:
    """Stop all children. Workers that finish their picture first may do so until a second Ctrl-C."""
    for child in children:
        if child.alive and child.process:
            child.process.terminate()
    while stop.wanted.is_set() and any(child.alive for child in children) and not stop.now.wait(POLL_SECONDS):
        continue
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        if child.process is None:
            continue
        if child.alive:
            child.process.terminate()
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time; killed", child.name)
            child.process.kill()
            child.process.wait()
