"""The contract of the doorbell, over each backend: it wakes workers, and nothing depends on it."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.errors import QueueUnavailable
from diffusion_local.queue import doorbell as queue_module
from diffusion_local.queue.doorbell import MAX_RINGS, ChoreQueue, HueyQueue
from diffusion_local.queue.huey_backends import BACKENDS, URL_EXAMPLES, open_huey, sqlite_url
from diffusion_local.settings import Settings
from tests.conftest import StartWorker
from tests.postgresql import running_cluster
from tests.queue.test_doorbell import NEVER, consuming, restore, saved_handlers
from tests.servers import RedisServer, rabbitmq_server, redis_server, sqs_server
from tests.support import eventually, sql, start_python


@dataclass
class Backend:
    """Where queues are, and how a test takes the server away and brings it back."""

    url: str
    take_away: Callable[[], object]
    bring_back: Callable[[], object]
    server: RedisServer | None = field(default=None)


SLOW = ("postgresql", "sqs", "amqp")
#: Further spellings of a scheme, which open the same backend: TLS, a Unix socket, a short name.
SPELLINGS = {"rediss": "redis", "unix": "redis", "postgres": "postgresql", "amqps": "amqp"}


def test_the_contract_holds_for_every_scheme_of_a_queue() -> None:
    assert set(BACKENDS) == {"sqlite", "redis", *SLOW, *SPELLINGS}
    assert {scheme: BACKENDS[scheme] for scheme in SPELLINGS} == {s: BACKENDS[main] for s, main in SPELLINGS.items()}
    assert all(f"{scheme}:" in URL_EXAMPLES for scheme in set(BACKENDS) - {"rediss", "postgres", "amqps"})


@pytest.fixture(params=["sqlite", "redis", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    if request.param == "redis":
        with redis_server() as server:
            yield Backend(server.url, server.stop, server.start, server)
        return
    if request.param == "postgresql":
        with running_cluster() as cluster:
            yield Backend(cluster.create("queues"), lambda: cluster.stop("immediate"), cluster.start)
        return
    if request.param == "sqs":
        with sqs_server(monkeypatch) as (url, stop, start):
            yield Backend(url, stop, start)
        return
    if request.param == "amqp":
        with rabbitmq_server() as rabbit:
            yield Backend(rabbit.url, rabbit.stop, rabbit.start)
        return
    path = tmp_path / "queue.db"

    def drop() -> None:
        with sql(path) as db:
            db.execute("ALTER TABLE task RENAME TO away")

    def restore() -> None:
        with sql(path) as db:
            db.execute("ALTER TABLE away RENAME TO task")

    yield Backend(sqlite_url(path), drop, restore)


def test_a_ring_wakes_a_waiting_worker(backend: Backend) -> None:
    with consuming(HueyQueue(backend.url)) as looks:
        before = len(looks)
        HueyQueue(backend.url).ring()
        eventually(lambda: len(looks) > before)


RING = "import sys; from diffusion_local.queue.doorbell import HueyQueue; HueyQueue(sys.argv[1]).ring()"


def test_a_ring_of_another_process_wakes_too(backend: Backend) -> None:
    with consuming(HueyQueue(backend.url)) as looks:
        before = len(looks)
        child = start_python(RING, backend.url)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        eventually(lambda: len(looks) > before)


def test_each_ring_wakes_one_worker(backend: Backend) -> None:
    with consuming(HueyQueue(backend.url)) as first, consuming(HueyQueue(backend.url)) as second:
        before = len(first) + len(second)
        queue = HueyQueue(backend.url)
        queue.ring(2)
        eventually(lambda: len(first) + len(second) == before + 2)
        eventually(lambda: queue.pending() == 0)


def test_rings_that_nobody_hears_do_not_pile_up_and_wake_who_comes(backend: Backend) -> None:
    queue = HueyQueue(backend.url)
    for _ in range(3):
        queue.ring(100_000)
    assert queue.pending() == MAX_RINGS
    with consuming(HueyQueue(backend.url)) as looks:
        eventually(lambda: len(looks) > MAX_RINGS)
        eventually(lambda: queue.pending() == 0)


def test_without_a_ring_the_worker_looks_by_itself(backend: Backend) -> None:
    with consuming(HueyQueue(backend.url), every=0.2) as looks:
        eventually(lambda: len(looks) >= 4)
        gaps = [after - before for before, after in itertools.pairwise(looks)]
        assert min(gaps) >= 0.2


def test_without_a_ring_the_wait_ends_in_time(backend: Backend) -> None:
    started = time.monotonic()
    assert not HueyQueue(backend.url).wait(0.1)
    assert 0.1 <= time.monotonic() - started < 60


def test_while_the_backend_is_away_a_wait_takes_its_time_and_raises_nothing(backend: Backend) -> None:
    queue = HueyQueue(backend.url)
    backend.take_away()
    started = time.monotonic()
    assert not queue.wait(0.3)
    assert time.monotonic() - started >= 0.3


def test_queues_of_other_names_do_not_wake(backend: Backend) -> None:
    parted = backend.url + ("&" if "?" in backend.url else "?") + "prefix=other"
    with consuming(HueyQueue(backend.url)) as looks:
        before = len(looks)
        HueyQueue(parted).ring()
        open_huey(backend.url, "chores").task(name="ring")(len)()
        assert HueyQueue(parted).pending() == 1
        HueyQueue(backend.url).ring()
        eventually(lambda: len(looks) > before)
        eventually(lambda: HueyQueue(backend.url).pending() == 0)
        assert len(looks) == before + 1
    assert HueyQueue(parted).pending() == 1


@pytest.mark.parametrize("message", [b"\x80\x04N.", b"[]", b"", b"\xff", b'{"message": {"id": "1", "name": "gone"}}'])
def test_a_message_that_cannot_be_read_does_not_stop_the_worker(backend: Backend, message: bytes) -> None:
    with consuming(HueyQueue(backend.url)) as looks:
        before = len(looks)
        open_huey(backend.url, "doorbell").storage.enqueue(message)
        HueyQueue(backend.url).ring()
        eventually(lambda: len(looks) == before + 2)


def test_a_backend_that_is_away_has_one_kind_of_error(backend: Backend) -> None:
    huey = open_huey(backend.url, "doorbell")
    backend.take_away()
    with pytest.raises(QueueUnavailable):
        huey.pending_count()
    with pytest.raises(QueueUnavailable):
        huey.dequeue()
    with pytest.raises(QueueUnavailable):
        huey.task(name="work")(len)()


def test_a_backend_that_goes_away_and_comes_back_stops_nobody(backend: Backend) -> None:
    """Meanwhile the worker looks by itself, and nobody who rings waits or fails; after that rings wake again."""
    queue = HueyQueue(backend.url)
    with consuming(HueyQueue(backend.url), every=0.3) as looks:
        backend.take_away()
        before = len(looks)
        for _ in range(50):
            queue.ring()
        eventually(lambda: len(looks) >= before + 3)
        backend.bring_back()
    with consuming(HueyQueue(backend.url)) as looks:
        before = len(looks)
        eventually(lambda: (queue.ring(), len(looks) > before)[1], every=0.2)  # it rests for a moment after a fault


def test_a_worker_that_waits_hears_rings_again_once_the_backend_is_back(backend: Backend) -> None:
    with consuming(HueyQueue(backend.url)) as looks:
        backend.take_away()
        threading.Event().wait(0.5)  # in which it meets the fault
        backend.bring_back()
        before = len(looks)
        queue = HueyQueue(backend.url)
        eventually(lambda: (queue.ring(), len(looks) > before)[1], every=0.2)


def test_chores_run_at_the_start_and_when_rung_for(backend: Backend) -> None:
    chores = ChoreQueue(backend.url)
    ran: list[str] = []
    chores.add_periodic("at the start", lambda: ran.append("start"), hours=6)
    ring = chores.add_on_demand("rung", lambda: ran.append("rung"))
    handlers = saved_handlers()
    try:
        chores.start()
        eventually(lambda: ran == ["start"])
        ring()
        eventually(lambda: ran == ["start", "rung"])
    finally:
        chores.stop()
        restore(handlers)


def test_chores_go_on_after_their_backend_was_away(backend: Backend) -> None:
    chores = ChoreQueue(backend.url)
    ran: list[str] = []
    ring = chores.add_on_demand("rung", lambda: ran.append("rung"))
    handlers = saved_handlers()
    try:
        chores.start()
        ring()
        eventually(lambda: len(ran) == 1)
        backend.take_away()
        ring()  # is lost, and raises nothing
        backend.bring_back()
        eventually(lambda: (ring(), len(ran) > 1)[1], every=0.2, timeout=30)
    finally:
        chores.stop()
        restore(handlers)


def test_jobs_are_made_while_the_backend_is_away(
    backend: Backend, settings: Settings, worker_process: StartWorker
) -> None:
    """A submit holds without its ring, and the worker process finds the job."""
    services: Services = open_services(Settings.load(engine="fake", port=0, queue=backend.url))
    child = worker_process(queue=backend.url)
    backend.take_away()
    [job_id] = services.studio.submit("a red apple", width=128, height=128, steps=2).job_ids
    eventually(lambda: services.jobs.get(job_id).state is State.DONE, 30)
    backend.bring_back()
    [job_id] = services.studio.submit("a red apple", width=128, height=128, steps=2).job_ids
    eventually(lambda: services.jobs.get(job_id).state is State.DONE, 30)
    assert child.poll() is None
    services.database.close()


def test_an_idle_worker_of_a_server_waits_in_it_instead_of_asking_over_and_over() -> None:
    with redis_server() as server, consuming(HueyQueue(server.url), every=0.5) as looks:
        before, seen = server.calls("brpop"), len(looks)
        eventually(lambda: len(looks) >= seen + 4)  # two seconds, or more
        passed = looks[-1] - looks[seen - 1]
        assert server.calls("brpop") - before <= 5 * passed + 5  # it used to be 33 a second
        assert server.calls("rpop") == 0


def test_a_server_that_does_not_answer_holds_up_one_submit_and_not_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs with its connections open, as behind a broken network."""
    monkeypatch.setattr(queue_module, "RETRY_SECONDS", NEVER)
    with redis_server() as server:
        queue = HueyQueue(server.url)
        queue.ring()
        asked: list[int] = []
        pending = queue.pending
        monkeypatch.setattr(queue, "pending", lambda: (asked.append(1), pending())[1])
        server.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(20):
                queue.ring()
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert len(asked) == 1
