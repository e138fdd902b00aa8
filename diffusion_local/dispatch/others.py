"""The other slots that could make a job which one slot could not."""

from datetime import UTC, datetime

from diffusion_local.compose import Services
from diffusion_local.dispatch.offers import Runnable, installed_files
from diffusion_local.domain import Params
from diffusion_local.errors import ModelUnavailable
from diffusion_local.queue.machines import ACTIVE, machine_of
from diffusion_local.queue.workers import is_silent


def able_slots(services: Services, params: Params, slot: str, kind: str = "") -> set[str]:
    """Live slots other than ``slot`` that could make such a picture; of its own machine none, if a file was missing."""
    here, now, leases = installed_files(services.catalog), datetime.now(UTC), services.leases.all()
    leased = {lease.slot for lease in leases}
    found = {
        worker.slot
        for worker in services.workers.list_all()
        if worker.slot not in leased and worker.status != "stopped" and not is_silent(worker, now)
    }
    for lease in leases:
        if not lease.expired(now) and services.machines.state(lease.slot) == ACTIVE:
            found |= {lease.slot} if Runnable(here, lease.files).params(params) else set()
    if kind == ModelUnavailable.kind:
        found = {each for each in found if machine_of(each) != machine_of(slot)}
    return found - {slot}


def refused_jobs(services: Services, slot: str) -> set[str]:
    """Queued jobs that a slot refused and that others are still to try. Where none of them is left it may try again: so
    the job fails by name, instead of waiting for a machine that went away.
    """
    return {
        job_id
        for job_id, refused in services.refusals.waiting_for_others(slot).items()
        if able_slots(services, services.jobs.get(job_id).params, slot) - set(refused)
    }
