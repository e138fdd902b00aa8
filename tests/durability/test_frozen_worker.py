"""A worker that is frozen (SIGSTOP): killed as hung if it has a supervisor; harmless if it wakes too late."""

import os
import signal
import sqlite3

import psutil
import pytest

from diffusion_local.compose import House
from diffusion_local.db import connections
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.errors import DatabaseProblem
from tests.durability.conftest import SERVE, WORKER, Start, assert_sound, ended, pid_of, running, states, submit
from tests.support import eventually

WORKER_1 = WORKER.replace("cpu0", "cpu1")


def test_a_frozen_worker_is_killed_as_hung_and_its_job_is_made_once(house: House, start: Start) -> None:
    serve = start(SERVE, step_timeout=1)
    first, second = submit(house, "[slow:0.2]", count=2, steps=8)
    running(house, first, step=2)
    frozen = pid_of(house)
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    for job in ended(house, first, second):
        assert (job.state, job.crashes) == (State.DONE, int(job.id == first))
    assert states(house, first) == ["queued", "running", "queued", "running", "done"]
    assert "timed out" in [event.note for event in house.view.events(first)]
    assert pid_of(house) != frozen
    assert serve.poll() is None
    serve.terminate()
    assert serve.wait(20) == 0
    assert_sound(house)


@pytest.mark.slow
def test_a_job_that_hangs_each_time_is_failed_as_timed_out_and_the_rest_runs(house: House, start: Start) -> None:
    start(SERVE, step_timeout=1)
    [hanging] = submit(house, "[hang]")
    [fine] = submit(house)
    job, rest = ended(house, hanging, fine)
    assert (job.state, job.crashes) == (State.FAILED, 2)
    assert job.failure is not None
    assert job.failure.kind == "timed_out"
    assert "step_timeout" in job.failure.message
    assert rest.state is State.DONE


@pytest.mark.parametrize("frozen_at", [pytest.param("denoise", marks=pytest.mark.slow), "save"])
def test_a_worker_that_wakes_after_its_job_was_made_elsewhere_writes_nothing(
    house: House, start: Start, frozen_at: str
) -> None:
    """``save``: it has passed its last look at the claim, and stands before the bytes."""
    stand = """
import os, signal, threading
from diffusion_local.store import files
save = files.ImageFiles.save_encoded
def stand(*args):
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait(1)  # the stop may reach another thread first, and this one would go on meanwhile
    return save(*args)
files.ImageFiles.save_encoded = stand
"""
    frozen = start(stand if frozen_at == "save" else "", WORKER)
    [job_id] = submit(house, "[slow:0.1]", steps=8)
    if frozen_at == "denoise":
        running(house, job_id, step=3)
        frozen.send_signal(signal.SIGSTOP)
    else:
        running(house, job_id, step=8)
        eventually(lambda: is_stopped(frozen.pid))
    slots.recover(house, "cpu0")  # by force: the slot's lock is still held
    start(WORKER_1)
    [job] = ended(house, job_id)
    assert (job.state, job.attempt) == (State.DONE, 2)
    [image] = house.studio.gallery()
    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: "the claim was lost" in frozen.log_path.read_text())  # type: ignore[attr-defined]
    assert frozen.poll() is None
    assert house.jobs.get(job_id) == job
    assert house.studio.gallery() == [image]
    assert states(house, job_id) == ["queued", "running", "queued", "running", "done"]
    assert_sound(house)


def test_a_worker_frozen_inside_a_transaction_holds_up_the_others_only_until_it_is_killed(
    house: House, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_SECONDS", 0.2)
    house.database.close()
    freeze = """
import os, signal, threading
from diffusion_local.store import rows
inner = rows.image_row
def stand(image):
    flag = os.path.join(os.environ["DIFFUSION_LOCAL_HOME"], "once")
    if not os.path.exists(flag):
        open(flag, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
        threading.Event().wait(1)  # the stop may reach another thread first, and this one would commit meanwhile
    return inner(image)
rows.image_row = stand
"""
    frozen = start(freeze, WORKER)
    [job_id] = submit(house)
    eventually(lambda: is_stopped(frozen.pid), 30)
    with pytest.raises(DatabaseProblem, match="locked"):
        submit(house)
    frozen.kill()
    frozen.wait()
    [other] = submit(house)
    start(freeze, WORKER)
    first, second = ended(house, job_id, other)
    assert (first.state, first.crashes, second.state) == (State.DONE, 1, State.DONE)
    with sqlite3.connect(house.settings.database) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (2,)  # the refused one left nothing
    assert_sound(house)


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
