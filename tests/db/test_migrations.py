"""Migrations: under a lock, after a backup, never by an older program; and the invariants that they lay down."""

import sqlite3
from pathlib import Path

import pytest
import sqlite_utils

from diffusion_local.db.database import Database
from diffusion_local.db.migrations import MIGRATIONS
from diffusion_local.domain import State
from diffusion_local.errors import DatabaseProblem
from diffusion_local.queue.jobs import JobStore
from tests.support import claimed, enqueue, image_of, in_state, sql, start_python

pytestmark = pytest.mark.real_migrations

NAMES = [migration.name for migration in MIGRATIONS._migrations]

MIGRATE_EACH = """
import sys, time
from pathlib import Path
from diffusion_local.db.database import Database
home, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for run in range(int(sys.argv[4])):
    (home / f"{run}-{me}").touch()
    while not (home / f"{run}-{other}").exists():
        pass
    Database.open(home / f"{run}.db").close()
"""


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    runs = 8
    children = [
        start_python(MIGRATE_EACH, str(tmp_path), me, other, str(runs)) for me, other in (("a", "b"), ("b", "a"))
    ]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    for run in range(runs):
        with sql(tmp_path / f"{run}.db") as db:
            assert [row[0] for row in db.execute("SELECT name FROM _sqlite_migrations ORDER BY id")] == NAMES


def test_a_database_of_a_newer_program_is_refused_and_not_touched(database: Database) -> None:
    enqueue(JobStore(database))
    with sql(database) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('diffusion_local', 'm999_from_the_future', '2999-01-01')"
        )
        before = list(db.iterdump())
    with pytest.raises(DatabaseProblem, match=r"newer diffusion-local \(m999_from_the_future\).*Update the program"):
        Database.open(database.path)
    with sql(database) as db:
        assert list(db.iterdump()) == before


def test_an_upgrade_backs_up_first_and_keeps_every_row(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    old = sqlite_utils.Database(path)
    MIGRATIONS.apply(old, stop_before="m002_images")
    old.execute(
        "INSERT INTO batches (id, count, created_at) VALUES ('batch', 1, '2026-01-01T00:00:00.000Z')"
    ).connection.commit()
    old.conn.close()
    database = Database.open(path)
    with database.read() as db:
        assert [row["id"] for row in db.query("SELECT id FROM batches")] == ["batch"]
    with sql(tmp_path / "app.before-m002_images.db") as db:
        assert [row["id"] for row in db.execute("SELECT id FROM batches")] == ["batch"]
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'images'").fetchall()


def test_a_new_database_needs_no_backup_and_a_second_start_changes_nothing(tmp_path: Path) -> None:
    Database.open(tmp_path / "app.db").close()
    with sql(tmp_path / "app.db") as db:
        before = list(db.iterdump())
    Database.open(tmp_path / "app.db").close()
    with sql(tmp_path / "app.db") as db:
        assert list(db.iterdump()) == before
    assert not list(tmp_path.glob("*before*"))


def test_names_tell_their_order() -> None:
    assert sorted(NAMES) == NAMES
    assert len({name[:4] for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(
    ("state", "change"),
    [
        (State.QUEUED, "state = 'running'"),
        (State.QUEUED, "worker = 'cpu0'"),
        (State.QUEUED, "cancel_requested = 1"),
        (State.QUEUED, "state = 'sleeping'"),
        (State.QUEUED, "finished_at = created_at"),
        (State.QUEUED, "state = 'done'"),
        (State.RUNNING, "worker = NULL"),
        (State.RUNNING, "state = 'queued'"),
        (State.RUNNING, "state = 'failed', worker = NULL"),
        (State.DONE, "finished_at = NULL"),
        (State.DONE, "worker = 'cpu0'"),
        (State.DONE, "cancel_requested = 1"),
        (State.FAILED, "cancel_requested = 1"),
        (State.DONE, "batch_id = 'nobody'"),
    ],
)
def test_the_tables_refuse_what_must_not_be(database: Database, store: JobStore, state: State, change: str) -> None:
    job = in_state(store, state)
    with sql(database) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(f"UPDATE jobs SET {change} WHERE id = ?", [job.id])


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO queue (id) VALUES (2)",
        "UPDATE batches SET lane = 'fast'",
        "INSERT INTO images (id, job_id, key, params, prompt, model, seed, width, height, bytes, created_at) "
        "SELECT 'other', job_id, 'other', params, prompt, model, seed, width, height, bytes, created_at FROM images",
    ],
)
def test_one_queue_known_lanes_and_one_picture_a_job(database: Database, store: JobStore, statement: str) -> None:
    in_state(store, State.DONE)
    with sql(database) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(statement)


def test_every_change_of_state_is_an_event_whoever_makes_it(database: Database, store: JobStore) -> None:
    [job_id] = enqueue(store)
    store.report(claimed(store).claim, 2)
    store.requeue(store.get(job_id).claim, "worker stopped")
    job = claimed(store, "cpu1")
    store.finish(job.claim, image_of(job))
    [other] = enqueue(store)
    with sql(database) as db:
        db.execute("UPDATE jobs SET state = 'cancelled', finished_at = created_at WHERE id = ?", [other])  # by hand
        history = [
            (row["state"], row["attempt"], row["worker"], row["note"])
            for row in db.execute("SELECT * FROM job_events WHERE job_id = ? ORDER BY id", [job_id])
        ]
        assert history == [
            ("queued", 0, None, ""),
            ("running", 1, "cpu0", ""),
            ("queued", 1, None, "worker stopped"),
            ("running", 2, "cpu1", ""),
            ("done", 2, None, ""),
        ]
        by_hand = db.execute("SELECT state FROM job_events WHERE job_id = ? ORDER BY id", [other]).fetchall()
        assert [row["state"] for row in by_hand] == ["queued", "cancelled"]
