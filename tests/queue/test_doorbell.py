"""The doorbell: what Huey promises and does not, as tests against the pinned version; and what we make of it."""

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from huey.exceptions import HueyException

from diffusion_local.queue.doorbell import MAX_RINGS, ChoreQueue, HueyQueue
from diffusion_local.queue.huey_backends import open_huey, sqlite_url
from diffusion_local.settings import Settings
from diffusion_local.studio import Studio
from tests.support import eventually, sql, start_python

NEVER = 3600.0  # an idle look that does not come within a test


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@contextmanager
def consuming(queue: HueyQueue, every: float = NEVER) -> Iterator[list[float]]:
    """The times at which somebody who waits for rings looked: at the first moment, at each ring, after ``every``."""
    looks: list[float] = []
    stop = threading.Event()

    def wait_and_look() -> None:
        while not stop.is_set():
            if not looks or time.monotonic() - looks[-1] >= every or queue.wait(0.1):
                looks.append(time.monotonic())

    thread = threading.Thread(target=wait_and_look)
    thread.start()
    try:
        eventually(lambda: looks)
        yield looks
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def put(path: Path, data: bytes) -> None:
    """A row in Huey's table, as anyone who can write the file could put it there."""
    with sql(path) as db:
        db.execute("INSERT INTO task (queue, data, priority) VALUES ('doorbell', ?, 0)", [data])


def rows(path: Path) -> list[bytes]:
    with sql(path) as db:
        return [bytes(row["data"]) for row in db.execute("SELECT data FROM task ORDER BY id")]


# -- what Huey is ----------------------------------------------------------------------------------------------------


def test_huey_deletes_a_message_before_it_runs_it(path: Path) -> None:
    """Why the jobs table is the truth: a message in hand is nowhere else, and a killed worker takes it along."""
    ran = []
    huey = open_huey(sqlite_url(path), "doorbell")
    task = huey.task(name="work")(lambda: ran.append(1))
    task()
    assert len(rows(path)) == 1
    message = huey.dequeue()
    assert rows(path) == []
    assert ran == []
    huey.execute(message)
    assert ran == [1]


def test_huey_deletes_a_message_whose_task_it_does_not_know(path: Path) -> None:
    sender, receiver = open_huey(sqlite_url(path), "doorbell"), open_huey(sqlite_url(path), "doorbell")
    sender.task(name="renamed")(lambda: None)()
    with pytest.raises(HueyException, match="not found in TaskRegistry"):
        receiver.dequeue()
    assert rows(path) == []


def test_results_are_not_kept(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    huey.task(name="work")(lambda: 42)()
    huey.execute(huey.dequeue())
    with sql(path) as db:
        assert db.execute("SELECT count(*) FROM kv").fetchone()[0] == 0


# -- messages are JSON -----------------------------------------------------------------------------------------------


def test_messages_are_json_and_come_back_as_they_were(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    task = huey.task(name="work", retries=3, retry_delay=7)(lambda *args, **kwargs: None)
    later = datetime.now() + timedelta(hours=1)
    sent = task.s(1, "two", [3, None], key={"four": 5.5}, eta=later, priority=9)
    huey.enqueue(sent)
    [stored] = rows(path)
    assert json.loads(stored)["message"]["args"] == [1, "two", [3, None]]
    found = huey.dequeue()
    for name in ("id", "args", "kwargs", "retries", "retry_delay", "eta", "priority"):
        assert getattr(found, name) == getattr(sent, name), name
    assert isinstance(found.args, tuple)


def test_a_task_with_an_expiry_comes_back(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    task = huey.task(name="work", expires=300)(lambda: None)
    task()
    assert isinstance(huey.dequeue().expires_resolved, datetime)


def test_a_task_for_later_passes_through_the_schedule(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    ran = []
    task = huey.task(name="work")(ran.append)
    task.schedule(args=("now",), delay=-1)
    task.schedule(args=("later",), delay=3600)
    for _ in range(2):
        huey.execute(huey.dequeue())  # puts what is not due into the schedule
    assert ran == ["now"]
    [due] = huey.read_schedule(datetime.utcnow() + timedelta(hours=2))
    huey.execute(due, due.eta)
    assert ran == ["now", "later"]


def test_a_task_that_fails_is_tried_again(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    ran: list[int] = []

    def flaky(n: int) -> None:
        ran.append(n)
        assert len(ran) > 2, "not yet"

    huey.task(name="flaky", retries=5)(flaky)(7)
    while (task := huey.dequeue()) is not None:
        huey.execute(task)
    assert ran == [7, 7, 7]


def test_what_is_no_json_is_refused_where_it_is_sent(path: Path) -> None:
    huey = open_huey(sqlite_url(path), "doorbell")
    task = huey.task(name="work")(lambda thing: None)
    with pytest.raises(TypeError, match="JSON only"):
        task(object())
    assert rows(path) == []


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_a_pickle_is_never_opened_and_the_consumer_goes_on(path: Path, tmp_path: Path) -> None:
    queue, target = HueyQueue(sqlite_url(path)), tmp_path / "executed"
    crafted = pickle.dumps(Bomb(target))
    pickle.loads(crafted)  # noqa: S301
    assert target.exists()  # the bomb works
    target.unlink()
    with consuming(queue) as looks:
        put(path, crafted)
        eventually(lambda: not rows(path))
        before = len(looks)
        queue.ring()
        eventually(lambda: len(looks) > before)
    assert not target.exists()


# -- ring and consume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        json.dumps({"message": {"id": "1", "name": "diffusion_local.queue.doorbell.forgotten"}}).encode(),
        json.dumps(
            {"message": {"id": "1", "name": "diffusion_local.queue.doorbell.ring", "a_field_to_come": 1}}
        ).encode(),
        json.dumps({"data": 3}).encode(),
        b"[]",
        b"\xff\xfe no text at all",
        b"",
    ],
)
def test_a_message_that_cannot_be_read_does_not_stop_the_consumer(path: Path, message: bytes) -> None:
    queue = HueyQueue(sqlite_url(path))
    with consuming(queue) as looks:
        put(path, message)
        eventually(lambda: not rows(path))
        before = len(looks)
        queue.ring()
        eventually(lambda: len(looks) > before)


def test_a_ring_wakes_at_once(path: Path) -> None:
    queue = HueyQueue(sqlite_url(path))
    with consuming(queue) as looks:
        before, rung = len(looks), time.monotonic()
        HueyQueue(sqlite_url(path)).ring()
        eventually(lambda: len(looks) > before, every=0.002)
        assert looks[before] - rung < 1.0  # an idle look would come after an hour


RING = """
import sys, time
from diffusion_local.queue.doorbell import HueyQueue
HueyQueue(sys.argv[1]).ring()
"""


def test_a_ring_of_another_process_wakes_too(path: Path) -> None:
    with consuming(HueyQueue(sqlite_url(path))) as looks:
        before = len(looks)
        child = start_python(RING, sqlite_url(path))
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        eventually(lambda: len(looks) > before, timeout=2)


def test_a_lost_ring_is_found_by_the_idle_look(path: Path) -> None:
    with consuming(HueyQueue(sqlite_url(path)), every=0.2) as looks:
        eventually(lambda: len(looks) >= 3, timeout=5)
        assert looks[-1] - looks[-2] > 0.1


def test_many_jobs_ring_a_few_times(path: Path) -> None:
    queue = HueyQueue(sqlite_url(path))
    queue.ring(100_000)
    assert queue.pending() == len(rows(path)) == MAX_RINGS


@pytest.mark.sqlite
def test_a_submit_holds_without_its_ring(studio: Studio, settings: Settings) -> None:
    """The job is in the table; an error now would make the client send it again."""
    with sql(settings.queue_database) as db:
        db.execute("DROP TABLE task")
    receipt = studio.submit("a red apple", width=128, height=128)
    assert [studio.job(job_id).state for job_id in receipt.job_ids] == ["queued"]


def test_a_queue_without_its_tables_only_loses_its_rings(path: Path) -> None:
    queue = HueyQueue(sqlite_url(path))
    with consuming(queue, every=0.2) as looks:
        with sql(path) as db:
            db.execute("DROP TABLE task")
        before = len(looks)
        eventually(lambda: len(looks) >= before + 2)


def test_a_damaged_queue_file_is_set_aside(path: Path) -> None:
    """Nothing in it is worth a stop: rings are found again by looking."""
    path.write_bytes(b"these are words, not a database. " * 500)
    queue = HueyQueue(sqlite_url(path))
    queue.ring()
    assert queue.pending() == 1


def test_the_queue_file_may_be_deleted(path: Path) -> None:
    HueyQueue(sqlite_url(path)).ring()
    for file in path.parent.glob("queue.db*"):
        file.unlink()
    queue = HueyQueue(sqlite_url(path))
    queue.ring()
    assert queue.pending() == 1


def test_a_chore_runs_at_the_start_and_one_that_fails_stops_nothing(path: Path) -> None:
    chores = ChoreQueue(sqlite_url(path))
    ran: list[str] = []

    def broken() -> None:
        ran.append("broken")
        raise ZeroDivisionError

    work: dict[str, Callable[[], None]] = {"broken": broken, "sound": lambda: ran.append("sound")}
    for name, chore in work.items():
        chores.add_periodic(name, chore, hours=6)
    handlers = saved_handlers()
    try:
        chores.start()
        eventually(lambda: ran == ["broken", "sound"], timeout=15)
    finally:
        chores.stop()
        restore(handlers)


def saved_handlers() -> dict[int, Any]:
    import signal

    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def restore(handlers: dict[int, Any]) -> None:
    import signal

    for number, handler in handlers.items():
        signal.signal(number, handler)
