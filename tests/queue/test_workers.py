"""The workers table informs, and no more."""

from diffusion_local.db.database import Database
from diffusion_local.domain import DeviceMemory
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.views import QueueView
from diffusion_local.queue.workers import WorkerStore
from tests.support import claimed, enqueue


def test_a_worker_registers_tells_and_is_replaced(database: Database) -> None:
    workers = WorkerStore(database)
    workers.register("cpu0", 10, "")
    workers.update("cpu0", "busy", "starter")
    [worker] = workers.list_all()
    assert (worker.slot, worker.pid, worker.status, worker.model) == ("cpu0", 10, "busy", "starter")
    workers.register("cpu0", 11, "CPU")
    [worker] = workers.list_all()
    assert (worker.pid, worker.device, worker.status, worker.model) == (11, "CPU", "starting", "")


def test_a_worker_tells_what_its_device_has_room_for(database: Database) -> None:
    workers, room = WorkerStore(database), DeviceMemory("cuda", 12_000, True)
    workers.register("gpu0", 10, "A GPU", room)
    workers.update("gpu0", "idle", free=9_000)
    workers.update("gpu0", "busy", "starter")
    [worker] = workers.list_all()
    assert (worker.room, worker.free_bytes) == (room, 9_000)


def test_a_heartbeat_is_no_visible_change(database: Database) -> None:
    workers, view = WorkerStore(database), QueueView(database)
    workers.register("cpu0", 10, "")
    before = view.revision(), workers.list_all()[0].seen_at
    with database.write() as db:
        db.execute("UPDATE workers SET seen_at = '2000-01-01T00:00:00.000Z'")
    workers.heartbeat("cpu0")
    assert view.revision() == before[0]
    assert workers.list_all()[0].seen_at >= before[1]


def test_a_heartbeat_of_an_unknown_slot_makes_no_worker(database: Database, store: JobStore) -> None:
    workers = WorkerStore(database)
    workers.heartbeat("cpu9")
    workers.update("cpu9", "stopped")
    enqueue(store)
    claimed(store)
    assert workers.list_all() == []
