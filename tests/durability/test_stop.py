"""How ``serve`` stops: the running picture is given back in a moment, or finished, as configured; nothing is lost."""

import signal
import subprocess
import time

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.durability.conftest import SERVE, Child, Start, assert_sound, ended, running, states, submit
from tests.support import eventually, soon

GRACE = 0.8  # the default of `stop_grace`


def seconds_to_stop(serve: Child, number: signal.Signals = signal.SIGTERM) -> float:
    asked = time.monotonic()
    serve.send_signal(number)
    assert serve.wait(30) == 0
    return time.monotonic() - asked


@pytest.mark.parametrize(
    ("number", "prompt"),
    [
        (signal.SIGTERM, "[slow:30]"),
        pytest.param(signal.SIGINT, "[slow:0.2]", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "[slow:0.2]", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "[slow:30]", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "[hang]", marks=pytest.mark.slow),
    ],
)
def test_serve_gives_the_running_picture_back_at_once_even_inside_a_long_step(
    services: Services, start: Start, number: signal.Signals, prompt: str
) -> None:
    serve = start(SERVE)
    [job_id] = submit(services, prompt, steps=50)
    running(services, job_id)
    assert seconds_to_stop(serve, number) < soon(1 + GRACE + 0.5)
    job = services.jobs.get(job_id)
    assert (job.state, job.worker, job.crashes) == (State.QUEUED, None, 0)
    assert states(services, job_id) == ["queued", "running", "queued"]
    assert {worker.status for worker in services.workers.list_all()} == {"stopped"}
    assert not list(services.settings.locks.glob("serve.json"))
    assert_sound(services, drained=False)


def test_serve_may_finish_the_running_picture_and_starts_no_other(services: Services, start: Start) -> None:
    serve = start(SERVE, on_stop="finish")
    first, second = submit(services, "[slow:0.3]", count=2, steps=6)
    running(services, first, step=1)
    seconds_to_stop(serve)
    assert services.jobs.get(first).state is State.DONE
    assert states(services, second) == ["queued"]
    start(SERVE)
    assert [job.attempt for job in ended(services, first, second)] == [1, 1]
    assert_sound(services)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_second_signal_does_not_wait_for_the_picture(services: Services, start: Start, at_once: bool) -> None:
    """``at_once``: what the supervisor passes on to its worker must not merge into a single signal."""
    serve = start(SERVE, on_stop="finish")
    [job_id] = submit(services, "[slow:30]")
    running(services, job_id)
    serve.terminate()
    if not at_once:
        with pytest.raises(subprocess.TimeoutExpired):
            serve.wait(1.5)
        assert services.jobs.get(job_id).state is State.RUNNING
    assert seconds_to_stop(serve, signal.SIGINT) < soon(4)  # the supervisor would kill after 6
    job = services.jobs.get(job_id)
    assert (job.state, job.crashes) == (State.QUEUED, 0)


def test_a_killed_supervisor_takes_its_worker_along_and_the_job_waits_for_the_next(
    services: Services, start: Start
) -> None:
    serve = start(SERVE)
    [job_id] = submit(services, "[slow:0.2]", steps=10)
    running(services, job_id, step=2)
    serve.kill()
    serve.wait()
    assert eventually(lambda: job if (job := services.jobs.get(job_id)).state is State.QUEUED else None).crashes == 0
    eventually(lambda: {worker.status for worker in services.workers.list_all()} == {"stopped"})
    start(SERVE)
    [job] = ended(services, job_id)
    assert (job.state, job.attempt) == (State.DONE, 2)
    assert_sound(services)


BOMBARDED = """
import os, signal, threading
from diffusion_local.worker.stopping import Stop, listen_to_signals
for _ in range(30):
    stop = Stop()
    listen_to_signals(stop)
    threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    while not stop.wanted.wait(0):  # in and out of the event's lock, where the signal then comes in between
        pass
    assert stop.now.wait(5)
"""


def test_a_signal_that_comes_while_the_main_thread_looks_at_the_stop_does_not_lock_up(start: Start) -> None:
    assert start(BOMBARDED).wait(30) == 0
