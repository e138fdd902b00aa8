"""``serve``: starts the web process and one worker per device, restarts them when they die, and stops them all."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from filelock import FileLock, Timeout

from diffusion_local import disk
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import Services, open_services
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.engine import inventory
from diffusion_local.errors import HomeInUse, InvalidParams, UserError
from diffusion_local.health.storage_checks import can_write
from diffusion_local.messages import message
from diffusion_local.preferences import restart_file
from diffusion_local.settings import Settings
from diffusion_local.supervisor import exit_causes
from diffusion_local.supervisor.leader import Leader
from diffusion_local.supervisor.watchdog import LeaseWatch, Watchdog, answers
from diffusion_local.system import permissions
from diffusion_local.system.network import (
    address_file,
    announced,
    check_exposure,
    check_tls,
    local_url,
    other_urls,
    scheme,
)
from diffusion_local.worker.stopping import Stop, listen_to_signals

log = logging.getLogger("diffusion_local.supervisor.supervisor")

POLL_SECONDS = 0.2
JOBS_POLL_SECONDS = 5.0
FIRST_RESTART_DELAY = 0.5  # doubled at each consecutive death, up to LAST_RESTART_DELAY
LAST_RESTART_DELAY = 30.0
RESTART_NOTICE = 2.0  # between the request of a restart and its start: each open page hears of it at its next poll
STEADY_SECONDS = 60.0  # a worker that ran this long restarts with the first delay
HEALTHY_SECONDS = 10.0  # as does a web process that has been healthy this long
STOP_SECONDS = 6.0
FAULT_SECONDS = 1.0  # pause after a storage fault
LENIENT_POLLS = 3


@dataclass
class Child:
    """A child process, restarted when it dies."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    slot: str = ""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay: float = FIRST_RESTART_DELAY
    due: float = field(default_factory=time.monotonic)
    hung: bool = False
    kills: int | None = None  # out-of-memory kills at its start
    heard: dict[tuple[str, str], float] = field(default_factory=dict)  # (job, time of its report): when we first saw it

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, settings: Settings) -> None:
        # The stdin pipe closes when this process dies for any reason, so no child outlives it.
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments, "--supervised"],
            stdin=subprocess.PIPE,
            env=settings.child_environ(),
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the children in order
        )
        self.started, self.hung, self.kills = time.monotonic(), False, exit_causes.count_oom_kills()

    def plan_restart(self, steady: bool) -> float:
        """Schedule a restart; returns the delay in seconds. ``steady``: the process had worked for a while."""
        wait = FIRST_RESTART_DELAY if steady else self.delay
        self.delay = min(wait * 2, LAST_RESTART_DELAY)
        self.due = time.monotonic() + wait
        return wait


class Supervisor:
    """One per home. ``run`` returns when it is asked to stop."""

    def __init__(self, settings: Settings, with_workers: bool, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._with_workers = with_workers
        self._say = say
        self._stop = Stop(finish_first=settings.on_stop == "finish")
        self._children: list[Child] = []
        self._watchdog = Watchdog(lambda: answers(self._settings))
        self._looked_at_jobs = 0.0
        self._leases: LeaseWatch | None = None
        self._again = False
        self._restart_asked: float | None = None  # when this process noticed the request

    def run(self) -> bool:
        """Run until stopped; returns whether a user asked on the page for a restart.

        Raises HomeInUse if another ``serve`` uses this home, InvalidParams if the port is taken.
        """
        run_as(LOCAL)  # also applies to the threads of chores, webhooks and downloads
        self._settings.make_folders()
        with hold_home(self._settings):
            check_modes(self._settings)
            self._settings = replace(self._settings, port=free_port(self._settings.host, self._settings.port))
            services = open_services(self._settings)
            check_exposure(self._settings, services.studio.accounts.any())
            check_tls(self._settings)
            restart_file(self._settings).unlink(missing_ok=True)
            write_address(self._settings)
            leader = Leader(services, started=lambda: listen_to_signals(self._stop))
            listen_to_signals(self._stop)
            leader.start()
            try:
                with announced(
                    self._settings.port, self._settings.root_path, self._settings.mdns == "on", scheme(self._settings)
                ):
                    self._serve(services, leader)
            finally:
                self._watchdog.stop()
                end(self._children, self._stop)
                for child in self._children:
                    if child.slot:
                        self._try(slots.recover_if_free, services, child.slot)
                leader.stop()
                for file in (address_file(self._settings), restart_file(self._settings)):
                    self._try(file.unlink, True)
        return self._again

    def _serve(self, services: Services, leader: Leader) -> None:
        web = Child("web", "diffusion_local.web")
        self._children.append(web)
        self._start(web)
        self._watchdog.start()
        if self._with_workers:
            self._children += self._workers()
        announced = False
        while not self._stop.wanted.is_set():
            for child in self._children:
                self._try(self._restart_if_dead, child, services)
            if not announced and self._watchdog.answered:
                announced = True
                self._say(f"diffusion-local is at {local_url(self._settings)}  (Ctrl-C stops it; nothing is lost)")
                for other in other_urls(self._settings):
                    self._say(f"  others reach it at {other}")
            for poll in (partial(self._check_jobs, services), leader.poll, self._poll_restart):
                self._try(poll)
            self._stop.wanted.wait(POLL_SECONDS)

    def _poll_restart(self) -> None:
        if not restart_file(self._settings).exists():
            return
        self._restart_asked = self._restart_asked or time.monotonic()
        if time.monotonic() - self._restart_asked >= RESTART_NOTICE:
            log.info("Restarting, as asked on the page.")
            self._again = True
            self._stop.request()

    def _try(self, work: Callable[..., object], *arguments: Any) -> None:
        """Run a step; a storage fault is logged and never ends this process."""
        try:
            work(*arguments)
        except (UserError, OSError) as problem:
            log.error("%s", problem)
            self._stop.wanted.wait(FAULT_SECONDS)

    def _workers(self) -> list[Child]:
        devices, warning = inventory.inspect_devices(self._settings)
        if warning:
            self._say(warning)
        return [
            Child(f"worker {slot}", "diffusion_local.worker", ("--slot", slot), slots.full_name(self._settings, slot))
            for slot in (device["slot"] for device in devices)
        ]

    def _restart_if_dead(self, child: Child, services: Services) -> None:
        if child.alive:
            return
        if child.process is not None:
            death = exit_causes.exit_cause(child.process.pid, child.process.returncode, child.kills)
            child.process = None
            wait = child.plan_restart(self._was_steady(child))
            log.warning("%s: %s; again in %.1f s", child.name, death.text, wait)
            if child.slot:
                # If this fails because of storage, the worker's successor recovers the jobs.
                lost = slots.TIMED_OUT if child.hung else slots.WORKER_LOST
                failure = exit_causes.failure_of(lost, death, self._settings, child.slot)
                self._try(slots.recover_if_free, services, child.slot, failure)
        if time.monotonic() >= child.due:
            self._start(child)

    def _start(self, child: Child) -> None:
        child.start(self._settings)
        if not child.slot and child.process is not None:
            self._watchdog.watch(child.process)

    def _was_steady(self, child: Child) -> bool:
        if child.slot:
            return time.monotonic() - child.started > STEADY_SECONDS
        return self._watchdog.healthy_seconds > HEALTHY_SECONDS

    def _check_jobs(self, services: Services) -> None:
        """Periodically kill hung workers, and recover jobs of workers without another supervisor."""
        since = time.monotonic() - self._looked_at_jobs
        if since < JOBS_POLL_SECONDS:
            return
        self._looked_at_jobs = time.monotonic()
        if since > LENIENT_POLLS * JOBS_POLL_SECONDS:
            for child in self._children:  # this process itself was suspended, so the workers' silence means nothing
                child.heard.clear()
        self._kill_hung(services)
        self._leases = self._leases or LeaseWatch(services)
        self._leases.poll(self._watchdog.healthy_seconds)
        ours = {child.slot for child in self._children}
        running = {job.worker for job in services.studio.jobs(State.RUNNING, limit=1000) if job.worker}
        for slot in sorted(running - ours):
            slots.recover_silent(services, slot)

    def _kill_hung(self, services: Services) -> None:
        """Kill workers that report no progress within their job's limit.

        Silence is measured by a monotonic clock, which is not affected by clock changes or suspension.
        """
        now = time.monotonic()
        for child in self._children:
            if not child.slot or not child.alive or child.process is None:
                continue
            running = services.view.running_reports(child.slot, self._settings.step_timeout)
            reports = [((job.id, at), limit) for job, at, limit in running]
            child.heard = {report: child.heard.get(report, now) for report, _ in reports}
            for report, limit in reports:
                silence = now - child.heard[report]
                if silence > limit and not can_write(self._settings):
                    child.heard[report] = now
                # grace period in which a worker that was blocked can report
                elif silence > limit + LENIENT_POLLS * JOBS_POLL_SECONDS:
                    log.error("%s made no progress for too long; killed", child.name, extra={"job": report[0]})
                    child.hung = True
                    child.process.kill()


def check_modes(settings: Settings) -> None:
    """Restrict databases and secrets to their owner, and warn about other readable files."""
    for each in permissions.tighten_secrets(settings):
        log.warning("closed to other users: %s", each)
    if found := permissions.shared(settings):
        names = ", ".join(path.name for path in found)
        log.warning("other users may read %s; `diffusion-local doctor --fix` closes it to them", names)


def hold_home(settings: Settings) -> FileLock:
    """The home's lock, as a context manager. Raises HomeInUse naming its holder."""
    lock = FileLock(settings.locks / "serve.lock", mode=disk.FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            holder = json.loads(address_file(settings).read_text(encoding="utf-8"))
            who = message("serves_at", process=holder["pid"], url=holder["url"])
        except (OSError, ValueError, KeyError):
            who = message("just_starting")
        raise HomeInUse(message("running_already", home=settings.home, who=who)) from None
    return lock


def write_address(settings: Settings) -> None:
    served = {"pid": os.getpid(), "url": local_url(settings), "others": other_urls(settings)}
    address_file(settings).write_text(json.dumps(served), encoding="utf-8")


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises InvalidParams if it is taken or not permitted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InvalidParams(
                "port", message("port_unusable", address=f"{host}:{port}", error=error, next=port + 1)
            ) from None
        return probe.getsockname()[1]


# -- workers of a studio on another machine ----------------------------------------------------------------------------


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
    end(children, stop, grace=stop.wanted.is_set())
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


def end(children: Sequence[Child], stop: Stop, grace: bool = True) -> None:
    """Stop all children. With ``grace``, workers that finish their picture first may do so until a second Ctrl-C."""
    terminate(children)
    while grace and any(child.alive for child in children) and not stop.now.wait(POLL_SECONDS):
        continue
    deadline = time.monotonic() + STOP_SECONDS
    while any(child.alive for child in children) and time.monotonic() < deadline:
        terminate(children)  # repeated, because two simultaneous signals merge into one
        time.sleep(POLL_SECONDS)
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in time; killed", child.name)
            child.process.kill()
            child.process.wait()


def terminate(children: Sequence[Child]) -> None:
    for child in children:
        if child.alive and child.process:
            child.process.terminate()
