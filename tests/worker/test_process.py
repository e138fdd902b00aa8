"""Real worker processes, real signals: what a person would see after each way in which a worker can end."""

import os
import signal
import time
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch.slots import full_name
from diffusion_local.domain import Job, State
from diffusion_local.messages import message
from tests.conftest import StartWorker
from tests.forking import Forked
from tests.support import FAILURE, eventually, soon, sql

FAST = {"width": 128, "height": 128, "steps": 3}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def submit(services: Services, prompt: str, count: int = 1, **changes: Any) -> list[str]:
    return services.studio.submit(prompt, count=count, **FAST | changes).job_ids


def running(services: Services, job_id: str, step: int = 0) -> Job:
    def look() -> Job | None:
        job = services.jobs.get(job_id)
        return job if job.state is State.RUNNING and job.step >= step else None

    return eventually(look)


def ended(services: Services, job_id: str, timeout: float = 30) -> Job:
    def look() -> Job | None:
        job = services.jobs.get(job_id)
        return job if job.final else None

    return eventually(look, timeout)


def pictures(services: Services) -> list[str]:
    """Ids of the pictures on disk; each must have its row, and each row its picture."""
    with sql(services.settings) as db:
        rows = sorted(row["job_id"] for row in db.execute("SELECT job_id FROM images"))
    files = sorted(path.stem for path in services.settings.gallery_folder.rglob("*.png"))
    assert rows == files
    assert not list(services.settings.gallery_folder.rglob("*.part"))
    return files


def wait(child: Forked, timeout: float) -> float:
    """Seconds that the child still takes to end."""
    started = time.monotonic()
    child.wait(timeout)
    return time.monotonic() - started


def test_a_picture_is_made_soon_after_its_submit(services: Services, worker_process: StartWorker) -> None:
    worker_process()
    [first] = submit(services, "a red apple")
    ended(services, first)  # the model is in memory now
    asked = time.monotonic()
    [job_id] = submit(services, "a red apple")
    job = ended(services, job_id)
    assert time.monotonic() - asked < soon(2.0)  # a ring wakes the worker: no idle look is waited for
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 1, 0)
    assert pictures(services) == sorted([first, job_id])


def test_what_waited_before_the_worker_came_is_made(services: Services, worker_process: StartWorker) -> None:
    ids = submit(services, "a red apple", count=3)
    for file in services.settings.home.glob("queue.db*"):
        file.unlink()  # every ring is lost
    worker_process(ready=False)
    assert {ended(services, job_id).state for job_id in ids} == {State.DONE}


def test_a_cancel_reaches_a_running_job_within_a_step(services: Services, worker_process: StartWorker) -> None:
    worker_process()
    [job_id] = submit(services, "[slow:0.3]", steps=50)
    running(services, job_id, step=1)
    asked = time.monotonic()
    services.studio.queue.cancel([job_id])
    job = ended(services, job_id)
    assert time.monotonic() - asked < soon(1.5)
    assert job.state is State.CANCELLED
    [after] = submit(services, "a red apple")
    ended(services, after)
    assert pictures(services) == [after]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("prompt", ["[slow:0.2]", "[slow:30]"])  # at a step; in the middle of a long one
def test_a_signal_gives_the_job_back_at_once(
    services: Services, worker_process: StartWorker, number: signal.Signals, prompt: str
) -> None:
    child = worker_process()
    [job_id] = submit(services, prompt, steps=100)
    running(services, job_id)
    child.send_signal(number)
    assert wait(child, 10) < soon(2.0)
    assert child.returncode == 0
    job = services.jobs.get(job_id)
    assert (job.state, job.worker, job.attempt, job.crashes) == (State.QUEUED, None, 1, 0)
    assert {worker.status for worker in services.workers.list_all()} == {"stopped"}
    assert pictures(services) == []


def test_a_stopping_worker_may_finish_its_picture_and_a_second_signal_does_not_wait(
    services: Services, worker_process: StartWorker
) -> None:
    child = worker_process(on_stop="finish")
    [first, second] = submit(services, "[slow:0.3]", count=2, steps=5)
    running(services, first)
    child.send_signal(signal.SIGTERM)
    wait(child, 10)
    assert child.returncode == 0
    assert [services.jobs.get(job_id).state for job_id in (first, second)] == [State.DONE, State.QUEUED]
    child = worker_process(on_stop="finish")
    [long] = submit(services, "[slow:30]", steps=100)
    running(services, long)
    child.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # the two must not merge into one
    child.send_signal(signal.SIGTERM)
    assert wait(child, 10) < soon(2.0)
    assert services.jobs.get(long).state is State.QUEUED


def test_a_signal_stops_an_idle_worker_at_once(services: Services, worker_process: StartWorker) -> None:
    child = worker_process()
    child.send_signal(signal.SIGTERM)
    assert wait(child, 10) < soon(1.0)
    assert child.returncode == 0


def submit_list(services: Services, *prompts: str, steps: int) -> list[str]:
    receipt = services.studio.lists.submit("\n".join(prompts), "text", **FAST | {"steps": steps, "seed": 7})
    return [job.id for job in services.studio.jobs_of_batches([receipt.batch_id])]


def test_a_worker_killed_in_the_middle_of_a_pass_loses_and_doubles_nothing(
    services: Services, worker_process: StartWorker
) -> None:
    child = worker_process(batch_size="4")
    ids = submit_list(services, *(f"[slow:0.2] number {number}" for number in range(4)), steps=12)
    assert {running(services, job_id, step=2).attempt for job_id in ids} == {1}
    child.kill()
    child.wait()
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.RUNNING}
    worker_process(batch_size="4")
    jobs = [ended(services, job_id, 60) for job_id in ids]
    assert {(job.state, job.attempt, job.crashes) for job in jobs} == {(State.DONE, 2, 1)}
    assert pictures(services) == sorted(ids)
    for job in jobs:
        verbs = [event.state for event in services.view.events(job.id)]
        assert verbs.count("done") == 1


def test_the_death_of_a_worker_recovers_what_ran_and_what_was_aside(
    services: Services, worker_process: StartWorker
) -> None:
    child = worker_process(batch_size="2")
    ids = submit_list(services, "[slow:0.2] one", "[slow:0.2] two", steps=12)
    for job_id in ids:
        running(services, job_id, step=2)
    [urgent] = submit(services, "[slow:0.3] somebody waits", steps=8)
    running(services, urgent, step=1)
    held = [services.jobs.get(job_id) for job_id in ids]
    assert {(job.state, job.phase) for job in held} == {(State.RUNNING, message("phase_aside"))}
    child.kill()
    child.wait()
    worker_process(batch_size="2")
    jobs = [ended(services, job_id, 60) for job_id in [urgent, *ids]]
    assert {(job.state, job.attempt, job.crashes) for job in jobs} == {(State.DONE, 2, 1)}
    assert pictures(services) == sorted([urgent, *ids])


def test_a_signal_gives_back_what_runs_and_what_is_aside(services: Services, worker_process: StartWorker) -> None:
    child = worker_process(batch_size="2")
    ids = submit_list(services, "[slow:0.2] one", "[slow:0.2] two", steps=12)
    for job_id in ids:
        running(services, job_id, step=2)
    [urgent] = submit(services, "[slow:30] somebody waits", steps=8)
    running(services, urgent)
    child.send_signal(signal.SIGTERM)
    assert wait(child, 10) < soon(2.0)
    jobs = [services.jobs.get(job_id) for job_id in [urgent, *ids]]
    assert {(job.state, job.worker, job.crashes) for job in jobs} == {(State.QUEUED, None, 0)}


def test_a_killed_workers_job_is_done_once_by_the_next(services: Services, worker_process: StartWorker) -> None:
    child = worker_process()
    [job_id] = submit(services, "[slow:0.2]", steps=10)
    running(services, job_id, step=2)
    child.kill()
    child.wait()
    assert services.jobs.get(job_id).state is State.RUNNING  # as it was left
    worker_process(ready=False)
    job = ended(services, job_id)
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 2, 1)
    assert pictures(services) == [job_id]
    states = [event.state for event in services.studio.events(job_id)]
    assert states == ["queued", "running", "queued", "running", "done"]


def test_a_cancelled_job_of_a_killed_worker_is_not_made_again(services: Services, worker_process: StartWorker) -> None:
    child = worker_process()
    [job_id] = submit(services, "[slow:30]", steps=10)
    running(services, job_id)
    child.kill()
    child.wait()
    services.studio.queue.cancel([job_id])
    worker_process()
    assert ended(services, job_id).state is State.CANCELLED


def test_a_job_that_kills_its_workers_is_failed_and_the_rest_runs(
    services: Services, worker_process: StartWorker
) -> None:
    [poison] = submit(services, "[crash]")
    [after] = submit(services, "a red apple")
    for _ in range(2):
        child = worker_process(ready=False)
        child.wait(30)
        assert child.returncode == 13
    worker_process()
    job = ended(services, poison)
    assert job.failure is not None
    assert (job.state, job.failure.kind, job.attempt, job.crashes) == (State.FAILED, "worker_lost", 2, 2)
    assert ended(services, after).state is State.DONE
    assert pictures(services) == [after]


def test_a_job_being_saved_is_not_blamed_for_the_next_ones_crashes(
    services: Services, worker_process: StartWorker
) -> None:
    """While a picture is saved the next one is made already: a worker then dies with two jobs in hand."""
    [innocent] = submit(services, "a red apple", width=512, height=512, steps=1)
    [poison] = submit(services, "[crash]", steps=1)
    for _ in range(2):
        worker_process(ready=False, fake_step_seconds=0).wait(30)
    worker_process()
    assert ended(services, poison).state is State.FAILED
    assert ended(services, innocent).state is State.DONE


def test_a_held_slot_is_refused_with_words(services: Services, worker_process: StartWorker) -> None:
    first = worker_process()
    second = worker_process(ready=False)
    assert second.wait(30) == 2
    messages = second.log_path.read_text()
    slot = full_name(services.settings, "cpu0")
    assert f"Slot {slot} of {services.settings.home} is held by process {first.pid}" in messages
    assert "Traceback" not in messages
    assert first.poll() is None
    [worker] = services.workers.list_all()
    assert worker.pid == first.pid


def test_two_slots_share_one_queue(services: Services, worker_process: StartWorker) -> None:
    worker_process("cpu0")
    worker_process("cpu1")
    ids = submit(services, "[slow:0.05]", count=12, steps=3)
    jobs = [ended(services, job_id) for job_id in ids]
    assert {(job.state, job.attempt) for job in jobs} == {(State.DONE, 1)}
    with sql(services.settings) as db:
        each = db.execute("SELECT DISTINCT worker FROM job_events WHERE state = 'running'").fetchall()
    assert {row["worker"] for row in each} == {full_name(services.settings, each) for each in ("cpu0", "cpu1")}
    assert pictures(services) == sorted(ids)


def test_a_fault_that_passes_is_tried_again(services: Services, worker_process: StartWorker) -> None:
    worker_process()
    [job_id] = submit(services, "[flaky]")
    eventually(lambda: services.jobs.get(job_id).tries == 1)
    assert services.jobs.get(job_id).not_before is not None
    with sql(services.settings) as db:
        db.execute("UPDATE jobs SET not_before = '2000-01-01T00:00:00.000Z'")
    assert ended(services, job_id).state is State.DONE  # found by the idle look: nobody rang


def test_an_engine_error_is_told_by_kind_and_message(services: Services, worker_process: StartWorker) -> None:
    worker_process()
    [job_id] = submit(services, "[oom]")
    job = ended(services, job_id)
    assert job.failure is not None
    assert (job.failure.kind, "smaller size" in job.failure.message) == ("out_of_memory", True)


def test_the_end_of_its_input_stops_a_supervised_worker(services: Services, worker_process: StartWorker) -> None:
    """So it stops when its supervisor dies, by whatever cause."""
    child = worker_process(supervised=True)
    [job_id] = submit(services, "[slow:30]", steps=100)
    running(services, job_id)
    child.stdin.close()
    assert wait(child, 10) < soon(2.0)
    assert child.returncode == 0
    assert services.jobs.get(job_id).state is State.QUEUED


def test_a_worker_of_its_own_does_not_need_an_input(services: Services, worker_process: StartWorker) -> None:
    child = worker_process()
    child.stdin.close()
    [job_id] = submit(services, "a red apple")
    assert ended(services, job_id).state is State.DONE
    assert child.poll() is None


def test_a_pause_reaches_a_running_job_and_is_kept_over_a_restart(
    services: Services, worker_process: StartWorker
) -> None:
    child = worker_process()
    [job_id] = submit(services, "[slow:0.1]", steps=30)
    running(services, job_id, step=1)
    services.control.pause(give_back=True)
    eventually(lambda: services.jobs.get(job_id).state is State.QUEUED)
    child.send_signal(signal.SIGTERM)
    child.wait(10)
    worker_process()
    time.sleep(0.3)  # time in which it could claim
    assert services.jobs.get(job_id).state is State.QUEUED
    services.studio.queue.resume()
    assert ended(services, job_id).state is State.DONE


def test_a_worker_that_was_frozen_loses_its_claim_and_writes_nothing(
    services: Services, worker_process: StartWorker
) -> None:
    """SIGSTOP, recovery by hand, another worker's picture, SIGCONT: still one picture, and the first goes on."""
    frozen = worker_process("cpu0")
    [job_id] = submit(services, "[slow:0.1]", steps=20)
    running(services, job_id, step=2)
    frozen.send_signal(signal.SIGSTOP)
    services.jobs.recover(full_name(services.settings, "cpu0"), FAILURE)
    worker_process("cpu1")
    job = ended(services, job_id)
    assert (job.state, job.attempt) == (State.DONE, 2)
    before = next(services.settings.gallery_folder.rglob("*.png")).stat().st_mtime_ns
    frozen.send_signal(signal.SIGCONT)
    ids = submit(services, "a red apple", count=6)
    for each in ids:
        ended(services, each)
    eventually(lambda: "the claim was lost" in frozen.log_path.read_text())
    assert services.jobs.get(job_id) == job
    assert services.files.picture(services.images.get(job_id).key).local_path.stat().st_mtime_ns == before
    assert frozen.poll() is None
    assert pictures(services) == sorted([job_id, *ids])


def test_a_list_continues_at_its_step_after_a_restart(services: Services, worker_process: StartWorker) -> None:
    child = worker_process(batch_size="2", stop_grace="5")
    ids = submit_list(services, "[slow:0.2] one", "[slow:0.2] two", steps=40)
    for job_id in ids:
        running(services, job_id, step=25)
    child.send_signal(signal.SIGTERM)
    wait(child, 10)
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.QUEUED}
    [kept] = services.settings.passes.iterdir()
    assert kept.name == f"{ids[0]}-1.pass"
    worker_process(batch_size="2")
    steps = []

    def look() -> bool:
        jobs = [services.jobs.get(job_id) for job_id in ids]
        steps.extend(job.step for job in jobs if job.state is State.RUNNING and job.step)
        return all(job.final for job in jobs)

    eventually(look, 60)
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    assert min(steps) >= 25
    assert pictures(services) == sorted(ids)
