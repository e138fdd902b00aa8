"""app.db as such: pragmas, transactions under concurrency, and faults that are told in words."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from diffusion_local.db.database import Database
from diffusion_local.errors import DatabaseProblem, DiffusionLocalError
from diffusion_local.queue.jobs import JobStore
from tests.support import REPOSITORY, claimed, enqueue, sql

pytestmark = pytest.mark.real_migrations


def test_an_acknowledged_write_survives_a_power_cut(database: Database) -> None:
    with database.read() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as db:
            db.execute("UPDATE queue SET paused = 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as db:
        assert db.execute("SELECT paused FROM queue").fetchone()[0] == 0
    with database.write() as db:  # and the connection is usable
        db.execute("UPDATE queue SET paused = 1")


def test_a_write_is_not_seen_before_its_end_and_seen_by_others_after(database: Database) -> None:
    with sql(database) as other:
        with database.write() as db:
            db.execute("UPDATE queue SET paused = 1")
            assert other.execute("SELECT paused FROM queue").fetchone()[0] == 0
        assert other.execute("SELECT paused FROM queue").fetchone()[0] == 1


def test_reads_see_one_moment(database: Database) -> None:
    with database.read() as db, sql(database) as other:
        assert db.execute("SELECT paused FROM queue").fetchone()[0] == 0
        other.execute("UPDATE queue SET paused = 1")
        assert db.execute("SELECT paused FROM queue").fetchone()[0] == 0


def test_a_query_without_a_transaction_sees_what_is_committed_or_its_threads_own_changes(database: Database) -> None:
    query = "SELECT paused, blocked FROM queue WHERE paused = ?"
    assert database.fetch(query, [0]) == [{"paused": 0, "blocked": ""}]
    assert database.fetch(query, [1]) == []
    with database.write() as db:
        db.execute("UPDATE queue SET paused = 1")
        assert len(database.fetch(query, [1])) == 1
    with sql(database) as other:
        other.execute("UPDATE queue SET paused = 0")
    assert len(database.fetch(query, [0])) == 1


def test_an_update_that_returns_rows_is_committed(database: Database) -> None:
    """sqlite-utils leaves a RETURNING statement open when its rows are not read to their end."""
    store = JobStore(database)
    enqueue(store)
    job = claimed(store)
    with sql(database) as other:
        assert other.execute("SELECT state FROM jobs WHERE id = ?", [job.id]).fetchone()[0] == "running"
        other.execute("UPDATE queue SET paused = 1")  # no write lock is left behind
    with database.outside_transaction() as connection:
        assert not connection.in_transaction


def test_reading_before_writing_never_meets_a_lock(database: Database) -> None:
    """Four threads with connections of their own; with a deferred BEGIN most of these die of "database is locked"."""
    errors: list[Exception] = []

    def add_one_often() -> None:
        try:
            for _ in range(200):
                with database.write() as db:
                    value = db.execute("SELECT revision FROM queue").fetchone()[0]
                    db.execute("UPDATE queue SET revision = ?", [value + 1])
        except (sqlite3.Error, DiffusionLocalError) as error:
            errors.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=add_one_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with database.read() as db:
        assert db.execute("SELECT revision FROM queue").fetchone()[0] == 800  # none was lost


def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(b"these are words, not a database. " * 500)
    before = path.read_bytes()
    with pytest.raises(DatabaseProblem, match=r"damaged.*doctor"):
        Database.open(path)
    assert path.read_bytes() == before


def test_a_damaged_page_is_found(database: Database) -> None:
    enqueue(JobStore(database), 200)
    assert database.findings() == []
    with database.write() as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()[0]
    with sql(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_size = db.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    with database.path.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(os.urandom(page_size))
    with pytest.raises(DatabaseProblem, match="damaged"):
        JobStore(database).claim_next("cpu0")
    with contextlib.suppress(DatabaseProblem):  # where even the check cannot be run
        assert database.findings() != []


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "app.db").mkdir()
    with pytest.raises(DatabaseProblem, match="cannot be written"):
        Database.open(tmp_path / "app.db")


AS_NOBODY = """
import os, sys
from pathlib import Path
from diffusion_local.errors import DatabaseProblem
from diffusion_local.db.database import Database
from diffusion_local.queue.jobs import JobStore
if os.geteuid() == 0:
    os.setuid(65534)
try:
    JobStore(Database.open(Path(sys.argv[1]))).pause("")
except DatabaseProblem as problem:
    print(problem)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("existing", [True, False])
def test_a_read_only_home_is_told_in_words(existing: bool) -> None:
    """In a child that is not root, as root may write everywhere."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "home"
        folder.mkdir()
        if existing:
            Database.open(folder / "app.db").close()
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
        Path(made).chmod(0o755)
        child = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder / "app.db")],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        folder.chmod(0o755)
    assert child.returncode == 0, child.stderr
    assert "cannot be written" in child.stdout
    assert "permissions" in child.stdout


def test_a_connection_that_met_a_fault_is_replaced(database: Database) -> None:
    with database.outside_transaction() as bad:
        pass
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY
    with pytest.raises(DatabaseProblem, match="cannot be written"), database.write():
        raise error
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        bad.execute("SELECT 1")
    database.probe()


AFTER_A_FAULT = """
import sys, threading
from pathlib import Path
from scripts.unprivileged import obey_permissions
obey_permissions()
from diffusion_local.errors import DatabaseProblem
from diffusion_local.db.database import Database
path, busy = Path(sys.argv[1]), sys.argv[2] == "busy"
files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
database, opened, over, done = Database(path), threading.Event(), threading.Event(), threading.Event()
def write():
    try:
        database.probe()
        return True
    except DatabaseProblem as problem:
        assert "readonly" in str(problem)
        return False
def read():
    with database.read() as db:
        db.execute("SELECT 1 FROM queue").fetchone()
        if busy:
            opened.set()
            over.wait()
    opened.set()
    done.wait()
for file in files:
    file.chmod(0o444)
reader = threading.Thread(target=read)
reader.start()
opened.wait()
assert not write()
for file in files:
    file.chmod(0o600)
write()
over.set()
print([write() for _ in range(2)][-1])
done.set()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes capabilities away from root")
@pytest.mark.parametrize("reader", ["idle", "busy"])
def test_a_process_that_opened_a_read_only_database_writes_once_it_may(database: Database, reader: str) -> None:
    """SQLite shares the -shm file among all connections of a process: while one that opened it read-only is left, in
    whichever thread, all later ones are read-only too."""
    database.probe()  # the three files are there, and stay while this connection is open
    child = subprocess.run(
        [sys.executable, "-c", AFTER_A_FAULT, str(database.path), reader],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout == "True\n", child.stderr


def test_a_database_that_is_gone_is_not_made_anew(database: Database) -> None:
    away = database.path.with_name("away.db")
    database.path.rename(away)
    for ask in (database.probe, lambda: JobStore(database).claim_next("cpu0")):
        with pytest.raises(DatabaseProblem, match="cannot be written"):
            ask()
    assert not database.path.exists()
    away.rename(database.path)
    database.probe()


def test_what_is_written_goes_to_the_file_of_that_name(database: Database, tmp_path: Path) -> None:
    """Another file in its place, as after a restored backup: an open connection would write into the old one."""
    enqueue(JobStore(database))
    database.backup(tmp_path / "backup.db")
    database.path.rename(tmp_path / "old.db")
    (tmp_path / "backup.db").rename(database.path)
    ids = enqueue(JobStore(database), 2)
    with sql(database) as db:
        assert {row["id"] for row in db.execute("SELECT id FROM jobs")} >= set(ids)


def test_a_probe_really_writes(database: Database) -> None:
    wal = database.path.with_name("app.db-wal")
    database.probe()
    size = wal.stat().st_size
    database.probe()
    assert wal.stat().st_size > size


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        database = Database.open(folder / "app.db")
        store = JobStore(database)
        kept = enqueue(store, 3)
        filler = folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(DatabaseProblem, match="Free some disk space"):
            enqueue(store, 5000)
        filler.unlink()
        assert [store.get(job_id).id for job_id in kept] == kept
        assert enqueue(store, 1)
        assert database.findings() == []
        database.close()
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def test_each_thread_has_a_connection_of_its_own(database: Database) -> None:
    found: list[object] = []  # kept, so that no later connection can have the same identity

    def ask() -> None:
        with database.read() as db:
            found.append(db.execute.__self__)
        database.close()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    with database.read() as db:
        assert found[0] is not db.execute.__self__


def test_a_backup_can_be_made_while_the_database_is_in_use(database: Database, tmp_path: Path) -> None:
    ids = enqueue(JobStore(database), 3)
    with sql(database) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM jobs").fetchall()
        database.backup(tmp_path / "copy.db")
    copy = JobStore(Database.open(tmp_path / "copy.db"))
    assert [copy.get(job_id).id for job_id in ids] == ids


def test_upkeep_goes_on_beside_writers(database: Database) -> None:
    """PRAGMA optimize reads, then writes: outside of a write transaction it fails when somebody writes in between."""
    store = JobStore(database)
    enqueue(store, 200)
    stop, failures = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            try:
                enqueue(store)
            except DatabaseProblem as problem:
                failures.append(problem)
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(12):
            with database.write() as db:
                if db.scalar("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"):
                    db.execute("DELETE FROM sqlite_stat1")
            database.upkeep()
    finally:
        stop.set()
        writer.join(60)
    assert failures == []
