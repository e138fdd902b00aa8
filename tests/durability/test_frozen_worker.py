"""A worker that is frozen (SIGSTOP): killed as hung if it has a supervisor; harmless if it wakes too late."""

import os
import signal
import sqlite3

import psutil
import pytest

from diffusion_local.compose import Services
from diffusion_local.db import sqlite_connections
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.errors import DatabaseProblem
from tests.durability.conftest import SERVE, WORKER, Start, assert_sound, ended, pid_of, running, states, submit
from tests.support import eventually

WORKER_1 = WORKER.replace("cpu0", "cpu1")


def test_a_frozen_worker_is_killed_as_hung_and_its_job_is_made_once(services: Services, start: Start) -> None:
    serve = start(SERVE, step_timeout=1)
    first, second = submit(services, "[slow:0.2]", count=2, steps=8)
    running(services, first, step=2)
    frozen = pid_of(services)
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    for job in ended(services, first, second):
        assert (job.state, job.crashes) == (State.DONE, int(job.id == first))
    assert states(services, first) == ["queued", "running", "queued", "running", "done"]
    assert "timed out" in [event.note for event in services.view.events(first)]
    assert pid_of(services) != frozen
    assert serve.poll() is None
    serve.terminate()
    assert serve.wait(20) == 0
    assert_sound(services)


@pytest.mark.slow
def test_a_job_that_hangs_each_time_is_failed_as_timed_out_and_the_rest_runs(services: Services, start: Start) -> None:
    start(SERVE, step_timeout=1)
    [hanging] = submit(services, "[hang]")
    [fine] = submit(services)
    job, rest = ended(services, hanging, fine)
    assert (job.state, job.crashes) == (State.FAILED, 2)
    assert job.failure is not None
    assert job.failure.kind == "timed_out"
    assert "step_timeout" in job.failure.message
    assert rest.state is State.DONE


@pytest.mark.parametrize("frozen_at", [pytest.param("denoise", marks=pytest.mark.slow), "save"])
def test_a_worker_that_wakes_after_its_job_was_made_elsewhere_writes_nothing(
    services: Services, start: Start, frozen_at: str
) -> None:
    """``save``: it has passed its last look at the claim, and stands before the bytes."""
    stand = """
import os, signal, threading
from diffusion_local.gallery import files
save = files.ImageFiles.save_encoded
def stand(*args):
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait(1)  # the stop may reach another thread first, and this one would go on meanwhile
    return save(*args)
files.ImageFiles.save_encoded = stand
"""
    frozen = start(stand if frozen_at == "save" else "", WORKER)
    [job_id] = submit(services, "[slow:0.1]", steps=8)
    if frozen_at == "denoise":
        running(services, job_id, step=3)
        frozen.send_signal(signal.SIGSTOP)
    else:
        running(services, job_id, step=8)
        eventually(lambda: is_stopped(frozen.pid))
    slots.recover(services, "cpu0")  # by force: the slot's lock is still held
    start(WORKER_1)
    [job] = ended(services, job_id)
    assert (job.state, job.attempt) == (State.DONE, 2)
    [image] = services.studio.gallery()
    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: "the claim was lost" in frozen.log_path.read_text())
    assert frozen.poll() is None
    assert services.jobs.get(job_id) == job
    assert services.studio.gallery() == [image]
    assert states(services, job_id) == ["queued", "running", "queued", "running", "done"]
    assert_sound(services)


@pytest.mark.slow
def test_a_worker_frozen_inside_a_transaction_holds_up_the_others_only_until_it_is_killed(
    services: Services, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_connections, "BUSY_SECONDS", 0.2)
    services.database.close()
    freeze = """
import os, signal, threading
from diffusion_local.db import rows
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
    [job_id] = submit(services)
    eventually(lambda: is_stopped(frozen.pid), 30)
    with pytest.raises(DatabaseProblem, match="locked"):
        submit(services)
    frozen.kill()
    frozen.wait()
    [other] = submit(services)
    start(freeze, WORKER)
    first, second = ended(services, job_id, other)
    assert (first.state, first.crashes, second.state) == (State.DONE, 1, State.DONE)
    with sqlite3.connect(services.settings.database_file) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (2,)  # the refused one left nothing
    assert_sound(services)


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED
