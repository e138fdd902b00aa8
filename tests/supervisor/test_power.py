"""Care for the machine: lists rest for heat and for others, people are served all the same, sleep after all is done."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import Lane, utc_text
from diffusion_local.supervisor import power as module
from diffusion_local.supervisor.power import COMMANDS, PowerPolicy
from diffusion_local.system.gpus import Gpu, used_by_others
from tests.support import claimed, enqueue, image_of, sql

COOL = Gpu(0, "test", 0, 80_000_000_000, temperature=60)


class Machine:
    """GPUs as the test wants them, and a clock that it turns."""

    def __init__(self, services: Services, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.services = services
        self.gpus = [COOL]
        self.now = 1000.0
        self.run: list[list[str]] = []
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        services = replace(services, settings=replace(services.settings, **settings))
        self.care = PowerPolicy(services, lambda: self.gpus, self.run.append)
        self.care.start()

    def look(self, after: float = 10.0, **gpu: Any) -> str:
        """Why lists rest, some seconds later."""
        self.now += after
        if gpu:
            self.gpus = [replace(COOL, **gpu)]
        self.care.poll()
        return self.services.studio.snapshot().resting


def test_a_hot_gpu_rests_lists_until_it_is_clearly_cooler(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, gpu_max_temp=80)
    assert machine.look(temperature=80) == ""
    assert machine.look(temperature=81) == "gpu0 is at 81 °C; it continues below 72 °C (gpu_max_temp)."
    assert machine.look(temperature=73) != ""
    assert machine.look(temperature=72) == ""
    assert machine.look(temperature=80) == ""
    assert machine.look(temperature=90) != ""
    assert machine.look(temperature=None) == ""


def test_only_lists_rest(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, gpu_max_temp=80)
    [listed] = enqueue(services.jobs, lane=Lane.BATCH)
    machine.look(temperature=90)
    assert services.jobs.claim_next("cpu0") is None
    [pressed] = enqueue(services.jobs)
    assert claimed(services.jobs).id == pressed
    assert services.jobs.claim_next("cpu0") is None
    snapshot = services.studio.snapshot()
    assert [job.id for job in snapshot.waiting] == [listed]
    assert (snapshot.paused, snapshot.reason) == (False, "")
    machine.look(temperature=50)
    assert claimed(services.jobs).id == listed


def test_reasons_do_not_overwrite_each_other(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, gpu_max_temp=80)
    services.studio.queue.pause()
    services.control.block("The disk is nearly full.")
    machine.look(temperature=90)
    services.control.block("")
    snapshot = services.studio.snapshot()
    assert (snapshot.paused, snapshot.reason, bool(snapshot.resting)) == (True, "", True)
    machine.look(temperature=50)
    assert (services.studio.snapshot().paused, services.studio.snapshot().resting) == (True, "")


def test_a_person_ends_a_rest_until_its_cause_comes_anew(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, gpu_max_temp=80)
    machine.look(temperature=90)
    services.studio.queue.resume()
    assert machine.look(temperature=91) == ""
    assert machine.look(temperature=60) == ""
    assert machine.look(temperature=90) != ""


def test_another_program_on_the_gpu_is_given_way(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, gpu_share="wait", gpu_share_mb=1000)
    services.workers.register("gpu0", 77, "test")
    services.workers.update("gpu0", "busy", "starter")
    ours, theirs = (77, 9_000_000_000), (99, 1_000_000_001)
    assert machine.look(processes=(ours, (99, 1_000_000_000))) == ""
    assert machine.look(processes=(ours, theirs)) == "Another program uses gpu0 (gpu_share)."
    assert machine.look(after=20, processes=(ours,)) != ""
    assert machine.look(after=20) == ""


def test_nobody_is_blamed_where_a_container_hides_the_processes() -> None:
    gpu = replace(COOL, processes=((4242, 9_000_000_000),))
    assert used_by_others(gpu, {77: True}) == 0
    assert used_by_others(gpu, {77: False}) == 9_000_000_000
    assert used_by_others(gpu, {}) == 9_000_000_000
    assert used_by_others(gpu, {4242: True}) == 0


def test_what_an_earlier_process_said_does_not_hold(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    services.control.set_rest("it was hot")
    services.control.announce_sleep("2026-11-22T07:00:00.000Z")
    Machine(services, monkeypatch)
    assert (services.studio.snapshot().resting, services.studio.snapshot().sleep_at) == ("", "")


def test_it_is_off_by_default(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch)
    list_done(services, minutes=600)
    assert machine.look(temperature=200, processes=((1, 10**12),)) == ""
    assert services.studio.snapshot().sleep_at == ""
    assert machine.run == []


def list_done(services: Services, minutes: float, lane: Lane = Lane.BATCH) -> None:
    """A list whose last picture was made that many minutes ago (as the house's clock says, from now on)."""
    enqueue(services.jobs, lane=lane)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    aged(services, minutes)


def aged(services: Services, minutes: float) -> None:
    with sql(services.settings) as db:
        at = utc_text(datetime.now(UTC) - timedelta(minutes=minutes))
        db.execute("UPDATE jobs SET finished_at = ? WHERE finished_at IS NOT NULL", [at])


def past(machine: Machine) -> None:
    """As if the program had been started, and the sleep announced, a while ago."""
    machine.care._since = utc_text(datetime.now(UTC) - timedelta(days=1))


def overdue(machine: Machine) -> None:
    at = utc_text(datetime.now(UTC) - timedelta(seconds=1))
    machine.care._sleep_at = at
    machine.services.control.announce_sleep(at)


@pytest.mark.parametrize("what", ["sleep", "shutdown"])
def test_the_machine_sleeps_after_its_lists_and_a_notice(
    services: Services, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module.sys, "platform", "linux")
    machine = Machine(services, monkeypatch, when_done=what, when_done_minutes=10)
    past(machine)
    list_done(services, minutes=9)
    machine.look()
    assert services.studio.snapshot().sleep_at == ""
    aged(services, 11)
    machine.look()
    announced = datetime.fromisoformat(services.studio.snapshot().sleep_at)
    assert timedelta(seconds=40) < announced - datetime.now(UTC) <= module.NOTICE
    machine.look()
    assert machine.run == []
    overdue(machine)
    machine.look()
    assert machine.run == [COMMANDS["linux"][what]]
    machine.look()
    assert services.studio.snapshot().sleep_at == ""  # once for each list, not again as soon as it wakes
    assert len(machine.run) == 1


def test_a_person_keeps_it_awake(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(services, minutes=5)
    machine.look()
    assert services.studio.snapshot().sleep_at != ""
    services.studio.queue.stay_awake()
    for _ in range(3):
        machine.look()
    assert services.studio.snapshot().sleep_at == ""
    assert machine.run == []


def test_work_keeps_it_awake(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(services, minutes=5)
    machine.look()
    enqueue(services.jobs)  # somebody pressed Generate in the last minute
    overdue(machine)
    machine.look()
    assert (machine.run, services.studio.snapshot().sleep_at) == ([], "")


def test_pictures_of_a_person_alone_never_make_it_sleep(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(services, minutes=60, lane=Lane.INTERACTIVE)
    machine.look()
    assert services.studio.snapshot().sleep_at == ""


def test_a_command_that_fails_harms_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(services, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)

    def broken(_: list[str]) -> None:
        raise FileNotFoundError("systemctl")

    machine.care._run = broken
    list_done(services, minutes=5)
    machine.look()
    overdue(machine)
    machine.look()
    assert services.studio.snapshot().sleep_at == ""


@pytest.mark.parametrize("column", ["finished_at", "sleep_at"])
def test_a_clock_that_was_set_back_keeps_no_machine_awake(
    services: Services, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    machine = Machine(services, monkeypatch, when_done="sleep", when_done_minutes=0)
    enqueue(services.jobs, lane=Lane.BATCH)
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job))
    if column == "sleep_at":
        machine.look()
    with sql(services.settings) as db:
        table = "queue" if column == "sleep_at" else "jobs"
        db.execute(f"UPDATE {table} SET {column} = ?", [utc_text(datetime.now(UTC) + timedelta(days=90))])
    machine.look()
    at = services.control.sleep_at()
    assert utc_text(datetime.now(UTC)) < at < utc_text(datetime.now(UTC) + timedelta(minutes=2))
