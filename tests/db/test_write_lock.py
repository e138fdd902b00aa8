"""The order of writers: nobody waits for ever, a dead holder is no obstacle, and SQLite decides where files do not."""

import os
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from diffusion_local.db import database as databases
from diffusion_local.db import write_lock as locks
from diffusion_local.db.database import Database
from diffusion_local.db.write_lock import ThreadTurns, WriteLock, write_lock
from diffusion_local.errors import DatabaseProblem
from tests.support import eventually, start_python

pytestmark = pytest.mark.sqlite
HOLD = """
import sys, time
from pathlib import Path
from diffusion_local.db.database import Database
database, ready = Database(Path(sys.argv[1])), Path(sys.argv[2])
with database.write():
    ready.touch()
    time.sleep(600)
"""
WRITE_MANY = """
import sys, time
from pathlib import Path
from diffusion_local.db.database import Database
database, stop, count = Database(Path(sys.argv[1])), Path(sys.argv[2]), 0
while not stop.exists():
    with database.write() as db:
        db.execute("UPDATE turns SET turn = turn + 1")
        time.sleep(0.002)  # without a pause between its transactions
    count += 1
    Path(sys.argv[3]).write_text(str(count))
"""


def queued(turns: ThreadTurns, patient: bool, order: list[str], name: str) -> threading.Thread:
    """A thread that waits for its turn, notes its name, and hands on."""

    def run() -> None:
        assert turns.acquire(patient, 30)
        order.append(name)
        turns.release()

    before = sum(map(len, turns._waiting))
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: sum(map(len, turns._waiting)) > before, 10)
    return thread


def test_threads_write_in_the_order_in_which_they_came() -> None:
    turns, order = ThreadTurns(), []
    turns.acquire(False, 1)
    threads = [queued(turns, False, order, str(number)) for number in range(20)]
    turns.release()
    for thread in threads:
        thread.join(10)
    assert order == [str(number) for number in range(20)]


def test_patient_writers_let_others_go_first_but_every_second_turn_is_theirs() -> None:
    turns, order = ThreadTurns(), []
    turns.acquire(True, 1)
    threads = [queued(turns, True, order, f"worker{number}") for number in range(3)]
    threads += [queued(turns, False, order, f"person{number}") for number in range(5)]
    turns.release()
    for thread in threads:
        thread.join(10)
    assert order == ["person0", "worker0", "person1", "worker1", "person2", "worker2", "person3", "person4"]


def test_a_thread_that_gave_up_is_not_waited_for() -> None:
    turns, order = ThreadTurns(), []
    turns.acquire(False, 1)
    late = threading.Thread(target=lambda: order.append(str(turns.acquire(False, 0.05))))
    late.start()
    late.join(10)
    assert order == ["False"]
    turns.release()
    assert turns.acquire(False, 0)


def test_a_waiting_thread_that_is_interrupted_passes_its_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = ThreadTurns()
    turns.acquire(False, 1)

    class Interrupted:
        def acquire(self, timeout: float = -1) -> bool:
            if timeout == -1:
                return True
            turns.release()  # handed over, and interrupted in the same moment
            raise KeyboardInterrupt

        def release(self) -> None: ...

    monkeypatch.setattr(locks.threading, "Lock", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.acquire(False, 5)
    assert turns.acquire(False, 0)


def test_a_process_that_writes_without_pause_lets_another_write(database: Database, tmp_path: Path) -> None:
    stop, count = tmp_path / "stop", tmp_path / "count"
    child = start_python(WRITE_MANY, str(database.path), str(stop), str(count))
    try:
        eventually(count.exists, 60)
        before = int(count.read_text() or 0)
        for _ in range(20):
            with database.write() as db:
                db.execute("UPDATE turns SET turn = turn + 1")
        between = int(count.read_text() or 0) - before
    finally:
        stop.touch()
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert between <= 20 * 3 + 20  # some of its transactions for each of ours, not hundreds


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_death_of_a_holder_frees_the_lock(database: Database, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    child = start_python(HOLD, str(database.path), str(ready))
    eventually(ready.exists, 60)
    lock = WriteLock(database.path)
    with pytest.raises(sqlite3.OperationalError, match="locked"), lock.hold(False, 0.05):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=10)
    with database.write() as db:
        db.execute("UPDATE turns SET turn = turn + 1")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_frozen_holder_is_told_after_the_time_of_every_lock(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    child = start_python(HOLD, str(database.path), str(ready))
    try:
        eventually(ready.exists, 60)
        child.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(databases, "BUSY_SECONDS", 0.2)
        with pytest.raises(DatabaseProblem, match="locked"), database.write():
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=10)


def test_where_files_cannot_be_locked_sqlite_decides(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "lock_file", refuse)
    for _ in range(2):
        with database.write() as db:
            db.execute("UPDATE turns SET turn = turn + 1")


def test_a_nested_transaction_is_refused_and_does_not_wait_for_itself(database: Database) -> None:
    began = time.monotonic()
    with database.write(), pytest.raises(sqlite3.OperationalError, match="within a transaction"), database.write():
        pass
    assert time.monotonic() - began < databases.BUSY_SECONDS / 2


def test_objects_for_one_file_share_its_lock_and_no_file_stays_open(tmp_path: Path) -> None:
    one = write_lock(tmp_path / "app.db")
    assert write_lock(tmp_path / "app.db") is one
    with one.hold(False, 1):
        open_files = {one._next._file, one._write._file}
    del one
    for file in open_files:
        assert file is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
