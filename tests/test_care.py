"""Care for the machine: lists rest for heat and for others, people are served all the same, sleep after all is done."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diffusion_local import care as module
from diffusion_local.care import COMMANDS, Care, used_by_others
from diffusion_local.compose import House
from diffusion_local.domain import Lane, utc_text
from diffusion_local.gpus import Gpu
from tests.support import claimed, enqueue, image_of, sql

COOL = Gpu(0, "test", 0, 80_000_000_000, temperature=60)


class Machine:
    """GPUs as the test wants them, and a clock that it turns."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.house = house
        self.gpus = [COOL]
        self.now = 1000.0
        self.run: list[list[str]] = []
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        house = replace(house, settings=replace(house.settings, **settings))
        self.care = Care(house, lambda: self.gpus, self.run.append)
        self.care.start()

    def look(self, after: float = 10.0, **gpu: Any) -> str:
        """Why lists rest, some seconds later."""
        self.now += after
        if gpu:
            self.gpus = [replace(COOL, **gpu)]
        self.care.look()
        return self.house.studio.snapshot().resting


def test_a_hot_gpu_rests_lists_until_it_is_clearly_cooler(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, gpu_max_temp=80)
    assert machine.look(temperature=80) == ""
    assert machine.look(temperature=81) == "gpu0 is at 81 °C; it goes on below 72 °C (gpu_max_temp)."
    assert machine.look(temperature=73) != ""
    assert machine.look(temperature=72) == ""
    assert machine.look(temperature=80) == ""
    assert machine.look(temperature=90) != ""
    assert machine.look(temperature=None) == ""


def test_only_lists_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, gpu_max_temp=80)
    [listed] = enqueue(house.jobs, lane=Lane.BATCH)
    machine.look(temperature=90)
    assert house.jobs.claim_next("cpu0") is None
    [pressed] = enqueue(house.jobs)
    assert claimed(house.jobs).id == pressed
    assert house.jobs.claim_next("cpu0") is None
    snapshot = house.studio.snapshot()
    assert [job.id for job in snapshot.waiting] == [listed]
    assert (snapshot.paused, snapshot.reason) == (False, "")
    machine.look(temperature=50)
    assert claimed(house.jobs).id == listed


def test_reasons_do_not_overwrite_each_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, gpu_max_temp=80)
    house.studio.pause()
    house.control.block("The disk is nearly full.")
    machine.look(temperature=90)
    house.control.block("")
    snapshot = house.studio.snapshot()
    assert (snapshot.paused, snapshot.reason, bool(snapshot.resting)) == (True, "", True)
    machine.look(temperature=50)
    assert (house.studio.snapshot().paused, house.studio.snapshot().resting) == (True, "")


def test_a_person_ends_a_rest_until_its_cause_comes_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, gpu_max_temp=80)
    machine.look(temperature=90)
    house.studio.resume()
    assert machine.look(temperature=91) == ""
    assert machine.look(temperature=60) == ""
    assert machine.look(temperature=90) != ""


def test_another_program_on_the_gpu_is_given_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, gpu_share="wait", gpu_share_mb=1000)
    house.workers.register("gpu0", 77, "test")
    house.workers.tell("gpu0", "busy", "starter")
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


def test_what_an_earlier_process_said_does_not_hold(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.control.rest("it was hot")
    house.control.announce_sleep("2026-11-22T07:00:00.000Z")
    Machine(house, monkeypatch)
    assert (house.studio.snapshot().resting, house.studio.snapshot().sleep_at) == ("", "")


def test_it_is_off_by_default(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch)
    list_done(house, minutes=600)
    assert machine.look(temperature=200, processes=((1, 10**12),)) == ""
    assert house.studio.snapshot().sleep_at == ""
    assert machine.run == []


def list_done(house: House, minutes: float, lane: Lane = Lane.BATCH) -> None:
    """A list whose last picture was made that many minutes ago (as the house's clock says, from now on)."""
    enqueue(house.jobs, lane=lane)
    job = claimed(house.jobs)
    house.jobs.finish(job.claim, image_of(job))
    aged(house, minutes)


def aged(house: House, minutes: float) -> None:
    with sql(house.settings.database) as db:
        at = utc_text(datetime.now(UTC) - timedelta(minutes=minutes))
        db.execute("UPDATE jobs SET finished_at = ? WHERE finished_at IS NOT NULL", [at])


def past(machine: Machine) -> None:
    """As if the program had been started, and the sleep announced, a while ago."""
    machine.care._since = utc_text(datetime.now(UTC) - timedelta(days=1))


def overdue(machine: Machine) -> None:
    at = utc_text(datetime.now(UTC) - timedelta(seconds=1))
    machine.care._sleep_at = at
    machine.house.control.announce_sleep(at)


@pytest.mark.parametrize("what", ["sleep", "shutdown"])
def test_the_machine_sleeps_after_its_lists_and_a_notice(
    house: House, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(module.sys, "platform", "linux")
    machine = Machine(house, monkeypatch, when_done=what, when_done_minutes=10)
    past(machine)
    list_done(house, minutes=9)
    machine.look()
    assert house.studio.snapshot().sleep_at == ""
    aged(house, 11)
    machine.look()
    announced = datetime.fromisoformat(house.studio.snapshot().sleep_at)
    assert timedelta(seconds=40) < announced - datetime.now(UTC) <= module.NOTICE
    machine.look()
    assert machine.run == []
    overdue(machine)
    machine.look()
    assert machine.run == [COMMANDS["linux"][what]]
    machine.look()
    assert house.studio.snapshot().sleep_at == ""  # once for each list, not again as soon as it wakes
    assert len(machine.run) == 1


def test_a_person_keeps_it_awake(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(house, minutes=5)
    machine.look()
    assert house.studio.snapshot().sleep_at != ""
    house.studio.stay_awake()
    for _ in range(3):
        machine.look()
    assert house.studio.snapshot().sleep_at == ""
    assert machine.run == []


def test_work_keeps_it_awake(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(house, minutes=5)
    machine.look()
    enqueue(house.jobs)  # somebody pressed Generate in the last minute
    overdue(machine)
    machine.look()
    assert (machine.run, house.studio.snapshot().sleep_at) == ([], "")


def test_pictures_of_a_person_alone_never_make_it_sleep(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)
    list_done(house, minutes=60, lane=Lane.INTERACTIVE)
    machine.look()
    assert house.studio.snapshot().sleep_at == ""


def test_a_command_that_fails_harms_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(house, monkeypatch, when_done="sleep", when_done_minutes=1)
    past(machine)

    def broken(_: list[str]) -> None:
        raise FileNotFoundError("systemctl")

    machine.care._run = broken
    list_done(house, minutes=5)
    machine.look()
    overdue(machine)
    machine.look()
    assert house.studio.snapshot().sleep_at == ""


@pytest.mark.parametrize("column", ["finished_at", "sleep_at"])
def test_a_clock_that_was_set_back_keeps_no_machine_awake(
    house: House, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    machine = Machine(house, monkeypatch, when_done="sleep", when_done_minutes=0)
    enqueue(house.jobs, lane=Lane.BATCH)
    job = claimed(house.jobs)
    house.jobs.finish(job.claim, image_of(job))
    if column == "sleep_at":
        machine.look()
    with sql(house.settings.database) as db:
        table = "queue" if column == "sleep_at" else "jobs"
        db.execute(f"UPDATE {table} SET {column} = ?", [utc_text(datetime.now(UTC) + timedelta(days=90))])
    machine.look()
    at = house.control.sleep_at()
    assert utc_text(datetime.now(UTC)) < at < utc_text(datetime.now(UTC) + timedelta(minutes=2))
