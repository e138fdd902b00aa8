"""A job that fails for a machine's reasons goes to another one: each able slot once, three at most."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.dispatch.local import LocalDispatch
from diffusion_local.domain import DeviceMemory, Failure, Job, State
from diffusion_local.engine import Pass
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import BadImage, DeviceLost, EngineError, ModelUnavailable, OutOfMemory
from diffusion_local.messages import message
from diffusion_local.options.types import Lora
from tests.remote.farm import Studio, joined, runner
from tests.remote.test_dispatch import expire
from tests.support import enqueue, params

MEMORY = Failure("out_of_memory", message("out_of_memory"))
MISSING = Failure("model_unavailable", message("cannot_load"))

Join = Callable[[str], Any]


@pytest.fixture
def join(studio: Studio, files: Any) -> Join:
    def machine(name: str) -> Any:
        dispatch = joined(studio, files, name)
        dispatch.register(1, "cpu", DeviceMemory())
        return dispatch

    return machine


def claimed(dispatch: Any) -> Job:
    [job] = dispatch.claim("")
    result: Job = job
    return result


def test_each_able_slot_tries_once_and_three_at_most(services: Services, join: Join) -> None:
    [job_id] = enqueue(services.jobs)
    machines = [join(name) for name in ("attic", "barn", "cellar", "den")]
    for dispatch in machines[:2]:
        assert dispatch.pass_on(claimed(dispatch).claim, MEMORY)
        assert services.jobs.get(job_id).state is State.QUEUED
        assert dispatch.claim("") == []
    third = machines[2]
    job = claimed(third)
    assert not third.pass_on(job.claim, MEMORY)
    third.fail(job.claim, MEMORY)
    failure = services.jobs.get(job_id).failure
    assert failure is not None
    assert failure.kind == "out_of_memory"
    assert "attic.cpu0, barn.cpu0, cellar.cpu0" in failure.message


def test_where_no_other_is_able_it_fails_at_once(services: Services, studio: Studio, join: Join) -> None:
    enqueue(services.jobs)
    one = join("attic")
    joined(studio, {}, "empty")  # it has no model
    drained = join("cellar")
    services.studio.machines.drain("cellar")
    assert drained.claim("") == []
    assert not one.pass_on(claimed(one).claim, MEMORY)


def test_a_machine_that_went_away_is_not_waited_for(services: Services, join: Join) -> None:
    [job_id] = enqueue(services.jobs)
    one, other = join("attic"), join("cellar")
    assert one.pass_on(claimed(one).claim, MEMORY)
    other.leave()
    job = claimed(one)
    assert not one.pass_on(job.claim, MEMORY)
    one.fail(job.claim, MEMORY)
    assert services.jobs.get(job_id).state is State.FAILED


def test_a_machine_that_was_lost_is_not_waited_for(services: Services, join: Join) -> None:
    enqueue(services.jobs)
    one = join("attic")
    join("cellar")
    assert one.pass_on(claimed(one).claim, MEMORY)
    assert one.claim("") == []
    expire(services, "cellar.cpu0")
    slots.recover_expired(services)
    assert claimed(one)


def test_the_studios_own_worker_and_a_remote_one_stand_in_for_each_other(services: Services, join: Join) -> None:
    local, remote = LocalDispatch(services, "cpu0"), join("attic")
    local.register(1, "cpu", DeviceMemory())
    enqueue(services.jobs)
    assert local.pass_on(claimed(local).claim, MEMORY)
    assert local.claim("") == []
    assert not remote.pass_on(claimed(remote).claim, MEMORY)
    local._storage.close()


def test_a_missing_file_is_missing_on_the_whole_machine(services: Services) -> None:
    one, other = LocalDispatch(services, "gpu0"), LocalDispatch(services, "gpu1")
    for dispatch in (one, other):
        dispatch.register(1, "cuda", DeviceMemory())
    enqueue(services.jobs, 2)
    assert not one.pass_on(claimed(one).claim, MISSING)
    assert one.pass_on(claimed(one).claim, MEMORY)
    for dispatch in (one, other):
        dispatch._storage.close()


class Faulty(FakeEngine):
    def __init__(self, error: type[EngineError]) -> None:
        super().__init__(0)
        self._error = error

    def run(self, crew: Pass) -> None:
        raise self._error


@pytest.mark.parametrize("error", [OutOfMemory, ModelUnavailable, DeviceLost, BadImage])
def test_a_worker_passes_on_what_its_machine_could_not_make(
    services: Services, join: Join, error: type[EngineError]
) -> None:
    """And nothing else: a picture that the model spoils is spoiled everywhere."""
    [job_id] = enqueue(services.jobs)
    bad, good = join("attic"), join("cellar")
    worker = runner(bad, services, Faulty(error))
    worker.run_due_jobs()
    worker.close()
    found = services.jobs.get(job_id)
    assert found.state is (State.FAILED if error is BadImage else State.QUEUED)
    assert (found.tries, found.crashes) == (0, 0)
    if error is not BadImage:
        worker = runner(good, services)
        worker.run_due_jobs()
        worker.close()
        assert services.jobs.get(job_id).state is State.DONE


def test_a_cancelled_job_is_not_passed_on(services: Services, join: Join) -> None:
    from diffusion_local.queue.jobs import Selection

    [job_id] = enqueue(services.jobs)
    one = join("attic")
    join("cellar")
    job = claimed(one)
    services.jobs.cancel(Selection(ids=(job_id,)))
    assert not one.pass_on(job.claim, MEMORY)


# -- what a worker is given --------------------------------------------------------------------------------------------


def test_a_job_that_a_machine_cannot_make_holds_none_behind_it_up(services: Services, join: Join) -> None:
    """The first of an owner's jobs names a LoRA that the machine lacks."""
    lacking = replace(params(), loras=(Lora("nowhere", 1.0),))
    enqueue(services.jobs, 3, loras=lacking.loras)
    [behind] = enqueue(services.jobs)
    assert claimed(join("attic")).id == behind


def test_owners_take_turns_over_all_machines(services: Services, join: Join) -> None:
    for owner in ("ann", "bob"):
        enqueue(services.jobs, 4, owner=owner)
    one, other = join("attic"), join("cellar")
    owners = [claimed(dispatch).owner for _ in range(4) for dispatch in (one, other)]
    assert all({first, second} == {"ann", "bob"} for first, second in zip(owners[::2], owners[1::2], strict=True))
