"""Machines: their settings, when they are given jobs, and what is counted of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from diffusion_local.db.database import Database
from diffusion_local.domain import Condition, utc_text
from diffusion_local.errors import LeaseLost, NotFound
from diffusion_local.queue.machines import MachineStore, count_picture, machine_of, pictures_per_hour
from diffusion_local.queue.workers import LeaseStore, WorkerStore


@pytest.fixture
def machines(database: Database) -> MachineStore:
    store = MachineStore(database, UTC)
    store.note("attic", "ann", "t1", "1.0", 2)
    return store


@pytest.fixture
def leases(database: Database) -> LeaseStore:
    return LeaseStore(database, 30)


@pytest.mark.parametrize(("slot", "machine"), [("attic.gpu0", "attic"), ("gpu0", ""), ("a-b.cpu0", "a-b")])
def test_a_slot_names_its_machine(slot: str, machine: str) -> None:
    assert machine_of(slot) == machine


@pytest.mark.parametrize("state", ["draining", "paused"])
def test_one_that_is_drained_or_paused_rests(machines: MachineStore, state: str) -> None:
    assert machines.resting("attic.gpu0") is None
    machines.change("attic", state=state)
    assert machines.resting("attic.gpu0")
    assert machines.resting("cellar.gpu0") is None
    assert machines.state("attic.gpu0") == state


def test_settings_outlive_a_restart_of_the_worker(machines: MachineStore) -> None:
    machines.change("attic", hours="22:00-07:00", gpu_share="wait")
    machines.note("attic", "ann", "t2", "1.1", 3)
    found = machines.get("attic")
    assert (found.hours, found.gpu_share, found.version, found.protocol) == ("22:00-07:00", "wait", "1.1", 3)


def test_it_rests_outside_of_its_hours(machines: MachineStore) -> None:
    now = datetime.now(UTC)
    around = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    later = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    machines.change("attic", hours=around)
    assert machines.resting("attic.gpu0") is None
    machines.change("attic", hours=later)
    assert later in str(machines.resting("attic.gpu0"))
    assert later in machines.get("attic").resting


def test_hours_are_of_the_studios_zone(database: Database) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")  # 14 hours ahead
    machines = MachineStore(database, zone)
    machines.note("attic")
    now = datetime.now(UTC).astimezone(zone)
    machines.change("attic", hours=f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}")
    assert machines.resting("attic.gpu0") is None


def test_it_rests_while_another_program_uses_its_gpu_if_it_is_to(machines: MachineStore, leases: LeaseStore) -> None:
    leases.take("attic.gpu0", "ann/t1")
    leases.note_condition("attic.gpu0", Condition(60, 2 * 10**9), 10**9)
    assert machines.resting("attic.gpu0") is None
    machines.change("attic", gpu_share="wait")
    assert "Another program" in str(machines.resting("attic.gpu0"))
    assert machines.resting("attic.gpu1") is None  # it is about that GPU alone


@pytest.mark.parametrize(("ago", "rests"), [(5, True), (60, False), (-3600, False)])
def test_a_gpu_counts_as_used_for_a_while(
    machines: MachineStore, leases: LeaseStore, database: Database, ago: float, rests: bool
) -> None:
    """A time in the future is that of a clock that was wrong."""
    leases.take("attic.gpu0", "ann/t1")
    machines.change("attic", gpu_share="wait")
    with database.write() as db:
        db.execute("UPDATE leases SET shared_at = ?", [utc_text(datetime.now(UTC) - timedelta(seconds=ago))])
    assert bool(machines.resting("attic.gpu0")) is rests


def test_a_machine_shows_its_slots(database: Database, machines: MachineStore, leases: LeaseStore) -> None:
    workers = WorkerStore(database)
    workers.register("gpu0", 1, "cuda:0")
    workers.register("attic.gpu0", 7, "cuda:0")
    workers.update("attic.gpu0", "busy", "sdxl", 5)
    assert not machines.get("attic").connected
    leases.take("attic.gpu0", "ann/t1")
    leases.note_condition("attic.gpu0", Condition(61, problem="no disk"), 10**9)
    found = machines.get("attic")
    [slot] = found.slots
    assert found.connected
    assert (slot.slot, slot.status, slot.model, slot.temperature, slot.problem) == (
        "attic.gpu0",
        "busy",
        "sdxl",
        61,
        "no disk",
    )


def test_pictures_are_counted_by_the_hour(database: Database, machines: MachineStore) -> None:
    WorkerStore(database).register("attic.gpu0", 1, "cuda:0")
    for _ in range(3):
        with database.write() as db:
            count_picture(db, "attic.gpu0")
    now = datetime.now(UTC)
    assert machines.get("attic").pictures_per_hour == 3
    with database.read() as db:
        assert pictures_per_hour(db, "attic.gpu0", now + timedelta(hours=2)) == 0


def test_removing_one_ends_its_leases(database: Database, machines: MachineStore, leases: LeaseStore) -> None:
    session = leases.take("attic.gpu0", "ann/t1")
    other = leases.take("attic2.gpu0", "ann/t1")
    assert machines.remove("attic") == ["attic.gpu0"]
    with pytest.raises(LeaseLost):
        leases.renew("attic.gpu0", session)
    leases.renew("attic2.gpu0", other)
    calls: list[Any] = [lambda: machines.get("attic"), lambda: machines.change("attic", hours="")]
    for call in calls:
        with pytest.raises(NotFound, match="attic"):
            call()


def test_a_lease_runs_anew_where_the_clock_was_set(database: Database, leases: LeaseStore) -> None:
    session = leases.take("attic.gpu0", "ann/t1")
    for hours in (-1, 1):
        with database.write() as db:
            db.execute("UPDATE leases SET expires_at = ?", [utc_text(datetime.now(UTC) + timedelta(hours=hours))])
        leases.renew_all()
        [lease] = leases.all()
        left = datetime.fromisoformat(lease.expires_at) - datetime.now(UTC)
        assert timedelta(seconds=25) < left <= timedelta(seconds=30)
    leases.renew("attic.gpu0", session)


def test_a_lease_from_the_future_is_written_anew_by_its_worker(database: Database, leases: LeaseStore) -> None:
    session = leases.take("attic.gpu0", "ann/t1")
    with database.write() as db:
        db.execute("UPDATE leases SET expires_at = ?", [utc_text(datetime.now(UTC) + timedelta(hours=1))])
    leases.renew("attic.gpu0", session)
    assert datetime.fromisoformat(leases.all()[0].expires_at) - datetime.now(UTC) <= timedelta(seconds=30)


def test_a_hung_worker_is_told_so_and_may_take_its_slot_again(leases: LeaseStore) -> None:
    session = leases.take("attic.gpu0", "ann/t1")
    assert leases.end_hung("attic.gpu0")
    assert not leases.end_hung("attic.gpu0")
    with pytest.raises(LeaseLost, match="made no progress"):
        leases.renew("attic.gpu0", session)
    with pytest.raises(LeaseLost, match="did not hear"):
        leases.renew("attic.gpu0", "another")
    assert leases.all() == []
    leases.renew("attic.gpu0", leases.take("attic.gpu0", "ann/t1"))
