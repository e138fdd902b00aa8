"""Slots: a worker owns ``gpu0`` or ``cpu0`` by an OS file lock, which the OS releases when the process dies.

So a running job whose slot is unlocked is certainly orphaned, without reliance on clocks or heartbeats. With a
database server the lock is held on the server and released with the worker's connection. Because a restart of the
server also releases it, jobs of workers on other machines are recovered only after a silence of one lease duration.
"""

import contextlib
import json
import logging
import platform
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from diffusion_local import disk
from diffusion_local.compose import Services
from diffusion_local.domain import Claim, Failure, Job, State
from diffusion_local.errors import HomeInUse
from diffusion_local.messages import message
from diffusion_local.settings import Settings

if TYPE_CHECKING:  # the server's client library is an optional dependency
    from diffusion_local.db.server_lock import ServerLock

log = logging.getLogger(__name__)

WORKER_LOST = Failure(
    "worker_lost",
    message("died_twice"),
)


TIMED_OUT = Failure(
    "timed_out",
    message("hung_twice"),
)


LEASE_PATIENCE = 10.0  # seconds to wait for the slot's lock, under which leases are taken and slots recovered


def full_name(settings: Settings, device: str, machine: str = "") -> str:
    """The slot of a device, prefixed with the machine's name if several machines may share the database."""
    return f"{machine_name(machine)}.{device}" if settings.database else device


def machine_name(name: str = "") -> str:
    """Normalise a machine name for slots to lower-case letters, digits and hyphens; defaults to the host name."""
    name = re.sub(r"[^a-z0-9]+", "-", (name or platform.node()).lower()).strip("-")[:40].strip("-")
    return name or "worker"


def slot_lock(services: Services, slot: str) -> "FileLock | ServerLock":
    return services.database.lock(services.settings.locks / f"{slot}.lock")


def take(services: Services, slot: str, patience: float) -> "FileLock | ServerLock":
    """Hold the slot until this process ends. Raises HomeInUse if another process holds it longer than ``patience``
    seconds.
    """
    lock = slot_lock(services, slot)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        holder = next((w for w in services.workers.list_all() if w.slot == slot), None)
        who = message("the_process", process=holder.pid) if holder else message("another_process")
        raise HomeInUse(message("slot_held", slot=slot, home=services.settings.home, who=who)) from None
    return lock


def recover(services: Services, slot: str, failure: Failure = WORKER_LOST) -> list[Job]:
    """Settle the jobs of a dead worker; returns them. The caller holds the slot's lock."""
    settled = services.jobs.recover(slot, failure, read_given_back(services, slot))
    services.loans.end(slot)
    with contextlib.suppress(OSError):
        given_back_file(services, slot).unlink(missing_ok=True)
    for job in settled:
        services.files.drop_preview(job.id)
        log.warning("recovered: %s after its worker was lost", job.state, extra={"job": job.id})
    waiting = sum(job.state is State.QUEUED for job in settled)
    if waiting:
        services.queue.ring(waiting)
    return settled


def write_given_back(services: Services, slot: str, claims: Iterable[Claim]) -> None:
    """Record the claims of a worker that stops while the database is not writable, so that recovery does not count
    them as crashes.
    """
    text = json.dumps([[claim.job_id, claim.attempt] for claim in claims])
    with contextlib.suppress(OSError):
        given_back_file(services, slot).write_text(text, encoding="utf-8")


def read_given_back(services: Services, slot: str) -> list[Claim]:
    try:
        return [
            Claim(job, slot, attempt) for job, attempt in json.loads(given_back_file(services, slot).read_text("utf-8"))
        ]
    except (OSError, ValueError, TypeError):
        return []


def given_back_file(services: Services, slot: str) -> Path:
    return services.settings.locks / f"{slot}.left"


def recover_if_free(services: Services, slot: str, failure: Failure = WORKER_LOST) -> list[Job]:
    """Recover the jobs of a worker known to be dead, unless its successor already holds the slot.

    Raises DatabaseProblem, and StorageProblem if the lock cannot be taken.
    """
    try:
        with disk.storage_errors(), slot_lock(services, slot).acquire(timeout=0):
            if services.leases.get(slot) is not None:
                return []  # leased by another machine: ``recover_expired`` handles it
            services.workers.lost(slot)
            return recover(services, slot, failure)
    except Timeout:
        return []


@contextlib.contextmanager
def locked(services: Services, slot: str) -> Iterator[None]:
    """Hold a slot's lock while its lease ends. Raises Timeout after LEASE_PATIENCE seconds."""
    with disk.storage_errors(), slot_lock(services, slot).acquire(timeout=LEASE_PATIENCE):
        yield


def recover_silent(services: Services, slot: str) -> list[Job]:
    """Recover the jobs of a worker whose lock is free and which, with a database server, is also silent.

    For workers whose death no process of this machine has observed.
    """
    if services.database.on_server:
        limit = timedelta(seconds=services.settings.lease_seconds)
        now = datetime.now(UTC)
        seen = [datetime.fromisoformat(each.seen_at) for each in services.workers.list_all() if each.slot == slot]
        if any(abs(now - each) < limit for each in seen):
            return []
    return recover_if_free(services, slot)


def recover_expired(services: Services) -> list[Job]:
    """Recover the jobs of remote workers whose leases have expired."""
    settled = []
    for slot in services.leases.expired():
        with contextlib.suppress(Timeout), locked(services, slot):
            if services.leases.end(slot):  # not renewed or taken meanwhile
                services.workers.lost(slot)
                settled += recover(services, slot)
    return settled


def recover_hung(services: Services, slot: str) -> list[Job]:
    """End the lease of a hung worker and recover its jobs. Its next call is answered with this fact."""
    with contextlib.suppress(Timeout), locked(services, slot):
        if services.leases.end_hung(slot):
            services.workers.lost(slot)
            return recover(services, slot, TIMED_OUT)
    return []
