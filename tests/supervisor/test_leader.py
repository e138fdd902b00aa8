"""One process does the work that is for all; where several share a database server, another takes over when it dies."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import Timeout

from diffusion_local.compose import Services, open_services
from diffusion_local.db.postgresql import PostgresDatabase
from diffusion_local.db.server_lock import ServerLock
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.errors import DatabaseProblem
from diffusion_local.settings import Settings
from diffusion_local.supervisor import leader as module
from diffusion_local.supervisor.leader import Leader
from tests.postgresql import Cluster, emptied, running_cluster
from tests.support import claimed, enqueue, eventually, sql


@pytest.fixture
def both(shared_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Services, Services]]:
    """Two machines with homes of their own, on one database."""
    monkeypatch.setattr(module, "ELECTION_SECONDS", 0.0)
    url = emptied(shared_database)
    settings = Settings.load(engine="fake", port=0, database=url, password_memory_kb=8)
    opened = [open_services(replace(settings, home=tmp_path / name)) for name in ("one", "two")]
    yield opened[0], opened[1]
    for each in opened:
        each.database.close()


def test_one_of_two_leads_and_the_other_takes_over(both: tuple[Services, Services]) -> None:
    started: list[str] = []
    one, two = (Leader(each, lambda name=name: started.append(name)) for each, name in zip(both, "12", strict=True))
    one.start(), two.start()
    assert (one.leads, two.leads, started) == (True, False, ["1"])
    for _ in range(3):
        one.poll(), two.poll()
    assert (one.leads, two.leads) == (True, False)
    one.stop()
    assert not one.leads
    two.poll()
    assert (two.leads, started) == (True, ["1", "2"])
    two.stop()


def test_a_leader_whose_connection_is_lost_leads_on_or_gives_way(both: tuple[Services, Services]) -> None:
    one, two = (Leader(each, lambda: None) for each in both)
    one.start()

    def cut() -> None:
        with sql(both[0].database) as other:
            locks = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            other.execute(f"SELECT pg_terminate_backend(pid) FROM ({locks}) AS found")

    cut()
    one.poll()
    assert one.leads
    cut()
    eventually(lambda: two.poll() or two.leads)
    one.poll()
    assert (one.leads, two.leads) == (False, True)
    two.stop()


def test_a_slot_is_held_against_other_machines_and_free_with_its_connection(both: tuple[Services, Services]) -> None:
    one, two = both
    held = slots.take(one, "box.cpu0", 0)
    with pytest.raises(Exception, match="held by"):
        slots.take(two, "box.cpu0", 0)
    slots.take(two, "other.cpu0", 0).release()
    assert isinstance(held, ServerLock)
    held.release()
    slots.take(two, "box.cpu0", 0).release()


def test_jobs_of_a_silent_worker_only_are_recovered(both: tuple[Services, Services]) -> None:
    one, two = both
    enqueue(one.jobs)
    job = claimed(one.jobs, "box.cpu0")
    one.workers.register("box.cpu0", 1, "")
    assert slots.recover_silent(two, "box.cpu0") == []  # its lock is free, as after a restart of the server
    with sql(one.database) as db:
        db.execute("UPDATE workers SET seen_at = '2020-01-01T00:00:00.000Z'")
    [recovered] = slots.recover_silent(two, "box.cpu0")
    assert (recovered.id, recovered.state) == (job.id, State.QUEUED)


def test_a_lock_is_taken_again_after_a_restart_of_the_server() -> None:
    with running_cluster() as cluster:
        lock, other = (server_lock(cluster) for _ in range(2))
        with lock.acquire(timeout=0):
            with pytest.raises(Timeout):
                other.acquire(timeout=0)
            cluster.stop("immediate")
            with pytest.raises(DatabaseProblem, match="cannot be reached"):
                lock.keep()
            cluster.start()
            assert lock.keep()
            assert not other.keep()
        assert other.keep()
        other.release()


def server_lock(cluster: Cluster) -> ServerLock:
    return ServerLock(PostgresDatabase(cluster.url("postgres")), "slot")


def test_slots_have_their_machines_name_where_machines_share_a_database(settings: Settings) -> None:
    assert slots.full_name(replace(settings, database=""), "gpu0") == "gpu0"
    shared = replace(settings, database="postgresql://host/name")
    assert slots.full_name(shared, "gpu0", "My Box_1") == "my-box-1.gpu0"
    assert slots.full_name(shared, "gpu0").endswith(".gpu0")
