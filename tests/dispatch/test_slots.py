"""Slots are held by an OS file lock: what runs under a slot that nobody holds is orphaned, and nothing else is."""

import pytest
from filelock import FileLock

from diffusion_local.compose import Services
from diffusion_local.db.server_lock import ServerLock
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.errors import HomeInUse
from tests.support import claimed, enqueue, eventually, start_python


def test_a_free_slot_is_taken_and_released(services: Services) -> None:
    lock = slots.take(services, "cpu0", 0)
    assert isinstance(lock, ServerLock if services.database.on_server else FileLock)
    lock.release()
    slots.take(services, "cpu0", 0).release()


HOLD = """
import sys, time
from diffusion_local.compose import open_services
from diffusion_local.settings import Settings
from diffusion_local.dispatch import slots
services = open_services(Settings.load())
lock = slots.take(services, "cpu0", 0)
services.workers.register("cpu0", 4242, "")
print("held", flush=True)
time.sleep(60)
"""


def test_a_held_slot_says_who_holds_it_and_is_free_once_the_holder_dies(services: Services) -> None:
    child = start_python(HOLD)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(HomeInUse, match=r"Slot cpu0 of .* is held by process 4242"):
            slots.take(services, "cpu0", 0)
        enqueue(services.jobs)
        job = claimed(services.jobs)
        assert slots.recover_if_free(services, "cpu0") == []  # it lives: its job is its own
        assert services.jobs.get(job.id).state is State.RUNNING
        other = slots.take(services, "cpu1", 0)
        other.release()
    finally:
        child.kill()
        child.communicate()
    [recovered] = eventually(lambda: slots.recover_if_free(services, "cpu0"))
    assert (recovered.id, recovered.state, recovered.crashes) == (job.id, State.QUEUED, 1)


def test_recovering_rings_for_what_waits_again(services: Services) -> None:
    enqueue(services.jobs, 2)
    claimed(services.jobs), claimed(services.jobs)
    before = services.queue.pending()
    assert len(slots.recover(services, "cpu0")) == 2
    assert services.queue.pending() == before + 2
    assert slots.recover(services, "cpu0") == []
    assert services.queue.pending() == before + 2


@pytest.mark.parametrize(("failure", "kind"), [(slots.WORKER_LOST, "worker_lost"), (slots.TIMED_OUT, "timed_out")])
def test_a_job_that_takes_down_its_worker_again_ends_with_a_name_and_what_to_do(
    services: Services, failure: slots.Failure, kind: str
) -> None:
    [job_id] = enqueue(services.jobs)
    for _ in range(2):
        claimed(services.jobs)
        slots.recover(services, "cpu0", failure)
    job = services.jobs.get(job_id)
    assert job.failure is not None
    assert (job.state, job.failure.kind) == (State.FAILED, kind)
    assert "smaller size" in job.failure.message
