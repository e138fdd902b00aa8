"""What estimates learn from is kept with each picture; so is how good they were."""

import pytest

from diffusion_local.db.database import Database
from diffusion_local.queue.estimates import JobTimings, Work
from diffusion_local.queue.history import pace_of, queued_work
from diffusion_local.queue.jobs import JobStore
from scripts.estimate_error import estimate_error
from tests.support import claimed, enqueue, image_of, params


def make(store: JobStore, measured: JobTimings | None) -> str:
    job = claimed(store)
    store.finish(job.claim, image_of(job), measured)
    return job.batch_id


def test_measured_seconds_and_loads_are_learned(database: Database, store: JobStore) -> None:
    enqueue(store, 3)
    make(store, JobTimings(4.0, 9.0, rung="resident"))
    make(store, JobTimings(6.0, rung="resident"))
    with database.read() as db:
        pace = pace_of(db, ["starter"])
    assert pace.seconds(Work.of_params(params())) == 5.0
    assert pace.load_seconds("starter", "") == 9.0


def test_a_rung_is_learned_apart(database: Database, store: JobStore) -> None:
    enqueue(store, 2)
    make(store, JobTimings(4.0, rung="resident"))
    make(store, JobTimings(40.0, rung="sequential"))
    with database.read() as db:
        assert pace_of(db, ["starter"]).seconds(Work.of_params(params())) == 40.0


def test_what_waits_is_counted_by_work(database: Database, store: JobStore) -> None:
    enqueue(store, 3)
    enqueue(store, 2, steps=9)
    with database.read() as db:
        assert queued_work(db) == {Work.of_params(params()): 3, Work.of_params(params(steps=9)): 2}


def test_the_error_is_the_median_of_what_was_off(database: Database, store: JobStore) -> None:
    enqueue(store, 4)
    assert estimate_error(database).median is None
    for expected in (10.0, 11.0, 15.0, None):
        batch_id = make(store, JobTimings(8.0, 2.0, expected))
    for found in (estimate_error(database, batch_id), estimate_error(database, since="2000-01-01")):
        assert (found.count, found.median) == (3, pytest.approx(0.1))
    assert estimate_error(database, since="2999-01-01").count == 0
