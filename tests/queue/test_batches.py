"""Jobs with what became of them: in order, page by page, while the table changes."""

from pathlib import Path

import pytest

from diffusion_local.db.database import Database
from diffusion_local.domain import Lane
from diffusion_local.errors import NotFound
from diffusion_local.gallery.images import ImageStore
from diffusion_local.queue import batches
from diffusion_local.queue.batches import BatchResults
from diffusion_local.queue.jobs import JobStore
from tests.support import claimed, enqueue, image_of


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PAGE_JOBS", 2)


def test_a_batch_comes_whole_and_in_its_order_with_keys(database: Database, store: JobStore) -> None:
    ids = enqueue(store, 5)
    enqueue(store, 1)
    done = claimed(store)
    store.finish(done.claim, image_of(done))
    found = list(BatchResults(database).of_batch(done.batch_id))
    assert [job.id for job, _ in found] == ids
    assert [key is not None for _, key in found] == [True, False, False, False, False]
    ImageStore(database).trash([done.id])
    assert [key for _, key in BatchResults(database).of_batch(done.batch_id)] == [None] * 5


def test_an_unknown_batch_is_told(database: Database, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        BatchResults(database).of_batch("nobody")


def test_what_waits_comes_in_the_order_in_which_it_runs(database: Database, store: JobStore) -> None:
    night = enqueue(store, 3, Lane.BATCH)
    first = enqueue(store, 2, Lane.BATCH, priority=5)
    now = enqueue(store, 2)
    claimed(store)
    assert [job.id for job, _ in BatchResults(database).queued()] == [now[1], *first, *night]


def test_a_job_that_ends_or_goes_while_it_is_read_is_told_once_or_not(database: Database, store: JobStore) -> None:
    ids = enqueue(store, 4)
    reading = BatchResults(database).of_batch(store.get(ids[0]).batch_id)
    assert next(reading)[0].id == ids[0]
    with database.write() as db:
        db.execute("DELETE FROM job_events WHERE job_id = ?", [ids[3]])
        db.execute("DELETE FROM jobs WHERE id = ?", [ids[3]])
    assert [job.id for job, _ in reading] == ids[1:3]


def test_bytes_of_a_pixel_are_those_of_pictures_that_are_there(database: Database, store: JobStore) -> None:
    images = ImageStore(database)
    assert images.bytes_per_pixel() is None
    enqueue(store, 2)
    for size in (16384, 3 * 16384):
        job = claimed(store)
        store.finish(job.claim, image_of(job, bytes=size))
    assert images.bytes_per_pixel() == 2.0
    images.trash([job.id])
    assert images.bytes_per_pixel() == 1.0
