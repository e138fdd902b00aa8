"""Slots are held by an OS file lock: what runs under a slot that nobody holds is orphaned, and nothing else is."""

import pytest
from filelock import FileLock

from diffusion_local.compose import House
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.errors import HomeInUse
from tests.support import claimed, enqueue, eventually, start_python


def test_a_free_slot_is_taken_and_released(house: House) -> None:
    lock = slots.take(house, "cpu0", 0)
    assert isinstance(lock, FileLock)
    lock.release()
    slots.take(house, "cpu0", 0).release()


HOLD = """
import sys, time
from diffusion_local.compose import open_house
from diffusion_local.settings import Settings
from diffusion_local.dispatch import slots
house = open_house(Settings.load())
lock = slots.take(house, "cpu0", 0)
house.workers.register("cpu0", 4242, "")
print("held", flush=True)
time.sleep(60)
"""


def test_a_held_slot_says_who_holds_it_and_is_free_once_the_holder_dies(house: House) -> None:
    child = start_python(HOLD)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(HomeInUse, match=r"Slot cpu0 of .* is held by process 4242"):
            slots.take(house, "cpu0", 0)
        enqueue(house.jobs)
        job = claimed(house.jobs)
        assert slots.recover_if_free(house, "cpu0") == []  # it lives: its job is its own
        assert house.jobs.get(job.id).state is State.RUNNING
        other = slots.take(house, "cpu1", 0)
        other.release()
    finally:
        child.kill()
        child.communicate()
    [recovered] = eventually(lambda: slots.recover_if_free(house, "cpu0"))
    assert (recovered.id, recovered.state, recovered.crashes) == (job.id, State.QUEUED, 1)


def test_recovering_rings_for_what_waits_again(house: House) -> None:
    enqueue(house.jobs, 2)
    claimed(house.jobs), claimed(house.jobs)
    before = house.queue.waiting()
    assert len(slots.recover(house, "cpu0")) == 2
    assert house.queue.waiting() == before + 2
    assert slots.recover(house, "cpu0") == []
    assert house.queue.waiting() == before + 2


@pytest.mark.parametrize(("failure", "kind"), [(slots.LOST, "worker_lost"), (slots.HUNG, "timed_out")])
def test_a_job_that_takes_down_its_worker_again_ends_with_a_name_and_what_to_do(
    house: House, failure: slots.Failure, kind: str
) -> None:
    [job_id] = enqueue(house.jobs)
    for _ in range(2):
        claimed(house.jobs)
        slots.recover(house, "cpu0", failure)
    job = house.jobs.get(job_id)
    assert job.failure is not None
    assert (job.state, job.failure.kind) == (State.FAILED, kind)
    assert "smaller size" in job.failure.message
