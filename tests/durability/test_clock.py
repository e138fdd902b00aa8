"""A clock that jumps by a day, forth and back: nothing is stuck, nothing counts as hung, the order stays.

Every process of the home reads its clock through a ``sitecustomize`` of ours, which adds what stands in a file. SQLite
has a clock of its own that does not jump with it, so whatever compares the two is found out.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import State
from tests.durability.conftest import SERVE, Start, assert_sound, ended, pid_of, running, states, submit
from tests.support import REPOSITORY, eventually

DAY = 86400
CLOCK = """
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
import diffusion_local.domain as domain
real = time.time
def ahead():
    return float(Path({file!r}).read_text() or 0)
time.time = lambda: real() + ahead()
domain.utc_now = lambda: domain.utc_text(datetime.now(UTC) + timedelta(seconds=ahead()))
"""


@pytest.fixture
def clock(tmp_path: Path) -> Callable[[float], None]:
    """Sets by how many seconds every process's clock is wrong; ``PYTHONPATH`` must name ``tmp_path/clock``."""
    folder, file = tmp_path / "clock", tmp_path / "ahead"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK.format(file=str(file)), encoding="utf-8")

    def put(seconds: float) -> None:
        file.with_suffix(".new").write_text(str(seconds), encoding="utf-8")
        file.with_suffix(".new").replace(file)

    put(0)
    return put


def path(tmp_path: Path) -> str:
    return f"{tmp_path / 'clock'}:{REPOSITORY}"


@pytest.mark.parametrize("jump", [-DAY, pytest.param(DAY, marks=pytest.mark.slow)])
def test_a_jump_in_the_middle_of_a_job_stops_nothing_and_nobody_counts_as_hung(
    services: Services, start: Start, clock: Callable[[float], None], tmp_path: Path, jump: float
) -> None:
    serve = start(SERVE, step_timeout=2, PYTHONPATH=path(tmp_path))
    ids = submit(services, "[slow:0.2]", count=4, steps=10)
    running(services, ids[0], step=2)
    worker = pid_of(services)
    clock(jump)
    running(services, ids[1], step=2)
    clock(-jump)
    running(services, ids[2], step=2)
    clock(0)
    jobs = ended(services, *ids)
    assert [(job.state, job.attempt, job.crashes) for job in jobs] == [(State.DONE, 1, 0)] * 4
    assert pid_of(services) == worker
    with services.database.read() as db:
        done = db.execute("SELECT job_id FROM job_events WHERE state = 'done' ORDER BY id").fetchall()
    assert [row[0] for row in done] == ids  # in the order of their submit
    serve.terminate()
    assert serve.wait(20) == 0
    assert_sound(services)


@pytest.mark.slow
@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_dead_and_a_frozen_worker_are_found_whatever_the_clock_says(
    services: Services, start: Start, clock: Callable[[float], None], tmp_path: Path, jump: float
) -> None:
    start(SERVE, step_timeout=1, PYTHONPATH=path(tmp_path))
    killed, frozen = submit(services, "[slow:0.2]", count=2, steps=6)
    running(services, killed, step=2)
    clock(jump)
    os.kill(pid_of(services) or 0, signal.SIGKILL)
    running(services, frozen, step=2)
    pid = eventually(lambda: pid_of(services))
    os.kill(pid, signal.SIGSTOP)
    clock(-jump)
    assert [(job.state, job.crashes) for job in ended(services, killed, frozen)] == [(State.DONE, 1)] * 2
    assert states(services, killed) == states(services, frozen) == ["queued", "running", "queued", "running", "done"]
    assert_sound(services)
