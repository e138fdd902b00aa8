"""Two workers on two slots of one home: each job is made once, by one of them, and one may die."""

import threading

import pytest
from filelock import FileLock

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.durability.conftest import SERVE, WORKER, Start, assert_sound, ended, running, submit
from tests.support import eventually

WORKER_1 = WORKER.replace("cpu0", "cpu1")


@pytest.mark.parametrize("count", [24, pytest.param(60, marks=pytest.mark.slow)])
def test_two_workers_share_many_jobs_and_one_is_killed(services: Services, start: Start, count: int) -> None:
    ids = submit(services, count=count)
    start(WORKER)
    victim = start(WORKER_1)
    eventually(lambda: sum(image.job_id in ids for image in services.studio.gallery(limit=100)) >= 4, 30)
    eventually(lambda: any(job.worker == "cpu1" for job in services.studio.jobs(state="running")), 30, every=0.001)
    victim.kill()
    victim.wait()
    start(WORKER_1)  # the slot's next holder recovers what was left
    jobs = ended(services, *ids)
    assert {job.state for job in jobs} == {State.DONE}
    assert sum(job.crashes for job in jobs) <= 2  # one that was denoised, one that was saved
    with services.database.read() as db:
        makers = db.execute("SELECT DISTINCT worker FROM job_events WHERE state = 'running' ORDER BY 1").fetchall()
        busy = db.execute(
            "SELECT count(*) FROM job_events WHERE state = 'running' GROUP BY job_id HAVING count(*) > 2"
        ).fetchall()
    assert [row[0] for row in makers] == ["cpu0", "cpu1"]
    assert busy == []
    assert assert_sound(services)["images"] == count


@pytest.mark.parametrize("slot", ["gpu0", pytest.param("cpu1", marks=pytest.mark.slow)])
def test_the_job_of_a_slot_that_nobody_takes_again_is_recovered_by_the_supervisor(
    services: Services, start: Start, slot: str
) -> None:
    """As after a power cut, if the machine comes back without its GPU."""
    [job_id] = submit(services, "[slow:0.2]", steps=10)
    victim = start(WORKER.replace("cpu0", slot))
    assert running(services, job_id, step=1).worker == slot
    victim.kill()
    victim.wait()
    start(SERVE)
    [job] = ended(services, job_id)
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 2, 1)
    assert_sound(services)


def test_a_slot_whose_last_job_is_just_being_recovered_is_free_in_a_moment(services: Services, start: Start) -> None:
    """The supervisor holds the slot's lock while it recovers; a worker that starts then waits for it."""
    lock = FileLock(services.settings.locks / "cpu0.lock", thread_local=False)
    lock.acquire()
    threading.Timer(1.5, lock.release).start()
    [job_id] = submit(services)
    worker = start(f"from diffusion_local.worker import __main__ as m; m.RECOVERY_SECONDS = 10; {WORKER}")
    [job] = ended(services, job_id)
    assert job.state is State.DONE
    assert worker.poll() is None
