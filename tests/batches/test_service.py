"""Batches as a whole: pages, names, edits of what waits, copies, estimates as clock time, and files."""

import csv
import io
import tracemalloc
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.domain import Lane, State, utc_text
from diffusion_local.errors import Conflict, InvalidParams, NotFound
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.studio import Studio
from tests.batches.conftest import Work
from tests.support import FAILURE, claimed, image_of, refused, soon, sql

SMALL = {"width": 128, "height": 128, "steps": 4}


def make_list(studio: Studio, text: str = "a cat\na dog\nan owl", **options: Any) -> str:
    return studio.lists.submit(text, **SMALL | options).batch_id


def make_one(services: Services, seconds: float = 10.0) -> None:
    """Take the next job and say that it took so long."""
    job = claimed(services.jobs)
    services.jobs.finish(job.claim, image_of(job), JobTimings(seconds))


def test_pages_have_the_newest_batch_first_with_progress(services: Services) -> None:
    studio = services.studio
    ids = [make_list(studio, name=f"list {number}") for number in range(5)]
    make_one(services)
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    first = studio.batches.page(3)
    assert [each.batch.id for each in first] == ids[:1:-1]
    last = studio.batches.page(3, first[-1].batch.id)
    assert [each.batch.name for each in last] == ["list 1", "list 0"]
    counts = last[-1].counts
    assert (counts[State.DONE], counts[State.FAILED], counts[State.QUEUED]) == (1, 1, 1)
    assert studio.batches.get(ids[0]).counts == counts
    with pytest.raises(NotFound):
        studio.batches.get("nobody")


def test_an_estimate_is_clock_time_and_counts_what_stands_before(services: Services) -> None:
    studio = services.studio
    first, second = make_list(studio), make_list(studio)
    assert studio.batches.get(first).done_at is None  # nothing was made yet: no guess
    make_one(services)
    assert_done_in(studio, first, 20)
    assert_done_in(studio, second, 50)
    person = studio.submit("a fox", **SMALL).batch_id
    assert_done_in(studio, person, 10)  # interactive work goes first
    studio.queue.pause()
    assert studio.batches.get(second).done_at is None  # nobody knows for how long
    studio.queue.resume()
    assert_done_in(studio, person, 10)


def assert_done_in(studio: Studio, batch_id: str, seconds: float) -> None:
    asked, slack = datetime.now(UTC), timedelta(seconds=0.1)
    begins = datetime.fromisoformat(studio.batches.get(batch_id).done_at or "") - timedelta(seconds=seconds)
    assert asked - slack <= begins <= datetime.now(UTC) + slack


def test_a_batch_that_will_be_late_says_so_at_submit_and_when_it_slips(services: Services) -> None:
    studio = services.studio
    make_list(studio)
    make_one(services, 3600)
    late = studio.lists.submit("a cat\na dog", **SMALL, finish_by=utc_text(datetime.now(UTC) + timedelta(hours=1)))
    assert "finish_by: estimated to be done at" in late.warnings[0]
    studio.queue.cancel(batch_id=late.batch_id)
    fine = studio.lists.submit("a cat", **SMALL, finish_by=utc_text(datetime.now(UTC) + timedelta(hours=9)))
    assert fine.warnings == studio.snapshot().warnings == []
    studio.lists.submit("a cow\n" * 9, **SMALL, priority=5)  # it is put before the other
    [warning] = studio.snapshot().warnings
    assert warning.startswith("a cat: finish_by")
    assert studio.batches.get(fine.batch_id).warning in warning


def test_a_name_is_changed(studio: Studio) -> None:
    batch_id = make_list(studio)
    assert studio.batches.rename(batch_id, " birds ").batch.name == "birds"
    with refused(InvalidParams, "empty_text", field="name"):
        studio.batches.rename(batch_id, " ")
    with pytest.raises(NotFound):
        studio.batches.rename("nobody", "x")


def test_an_edit_reaches_what_waits_and_its_cost(services: Services) -> None:
    studio = services.studio
    batch_id = make_list(studio)
    make_one(services)
    running = claimed(services.jobs)
    edited = studio.batches.edit(batch_id, size="256x128", steps=9, neg="blur", sampler="euler a")
    assert edited.count == 1
    done, held, waiting = (job.params for job in studio.jobs(batch_id=batch_id))
    assert (done.steps, held.steps) == (4, 4)
    assert (waiting.width, waiting.height, waiting.steps, waiting.negative) == (256, 128, 9, "blur")
    assert waiting.sampler == "Euler a"
    with sql(services.settings) as db:
        row = db.execute("SELECT cost, pixels, steps FROM jobs WHERE state = 'queued'").fetchone()
    assert tuple(row) == (pytest.approx(waiting.cost), 256 * 128, 9)
    assert services.jobs.get(running.id).params.steps == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, r"steps: must be from 1 to 100.*picture 1 of the batch"),
        ({"model": "nobody"}, "model: There is no model"),
        ({"width": 130}, "width: must be a multiple of 8"),
        ({"mood": 3}, "mood: cannot be edited"),
        ({}, "changes: must name"),
        ({"size": "big"}, "size: must be WIDTHxHEIGHT"),
        ({"window": "07:00-07:00"}, "never opens"),
    ],
)
def test_an_edit_that_fails_for_one_changes_nothing(studio: Studio, changes: dict[str, Any], reason: str) -> None:
    batch_id = make_list(studio)
    before = [job.params for job in studio.jobs(batch_id=batch_id)]
    with pytest.raises(InvalidParams, match=reason):
        studio.batches.edit(batch_id, **changes)
    assert [job.params for job in studio.jobs(batch_id=batch_id)] == before


def test_one_bad_picture_among_many_refuses_the_edit(studio: Studio) -> None:
    batch_id = make_list(studio, "a cat\na dog --size 512x512")
    with pytest.raises(InvalidParams, match=r"strength: .* \(picture 1 of the batch\)"):
        studio.batches.edit(batch_id, strength=0.4)
    with sql(studio._settings) as db:
        changed = "UPDATE jobs SET model = 'gone', params = replace(params, ?, ?) WHERE idx = 1"
        db.execute(changed, ['"starter"', '"gone"'])
    with pytest.raises(InvalidParams, match=r"model: There is no model 'gone'.* \(picture 2 of the batch\)"):
        studio.batches.edit(batch_id, steps=9)
    assert {job.params.steps for job in studio.jobs(batch_id=batch_id)} == {4}
    assert studio.batches.edit(batch_id, model="starter", steps=9).count == 2


def test_times_are_edited_and_taken_away(services: Services) -> None:
    studio = services.studio
    batch_id = make_list(studio, finish_by="23:59")
    before = studio.batches.get(batch_id).batch.finish_by
    tomorrow = utc_text(datetime.now(UTC) + timedelta(days=1))
    studio.batches.edit(batch_id, start_at=tomorrow, finish_by="")
    batch = studio.batches.get(batch_id).batch
    assert (batch.start_at, batch.finish_by) == (tomorrow, None)
    assert before is not None
    assert services.jobs.claim_next("cpu0") is None
    studio.batches.edit(batch_id, start_at="")
    assert services.jobs.claim_next("cpu0") is not None


def test_nothing_that_has_ended_is_edited(services: Services) -> None:
    batch_id = make_list(services.studio)
    services.studio.queue.cancel(batch_id=batch_id)
    with refused(Conflict, "none_waits_any_more"):
        services.studio.batches.edit(batch_id, steps=9)


def test_a_copy_makes_the_same_pictures_in_the_same_lane(services: Services) -> None:
    studio = services.studio
    batch_id = make_list(studio, name="night", window="23:00-07:00")
    copy = studio.batches.duplicate(batch_id)
    batch = studio.batches.get(copy.batch_id).batch
    assert (batch.name, batch.lane, batch.window) == ("night (copy)", Lane.BATCH, "")
    first, second = ([job.params for job in studio.jobs(batch_id=each)] for each in (batch_id, copy.batch_id))
    assert first == second
    assert studio.batches.get(studio.batches.duplicate(batch_id, "other", window="01:00-02:00").batch_id).batch.window


def test_a_batchs_pictures_come_in_its_order_by_pages(services: Services, work: Work) -> None:
    studio = services.studio
    batch_id = make_list(studio)
    make_list(studio)
    work()
    first = studio.batches.images(batch_id, 2)
    assert [image.params.prompt for image in first] == ["a cat", "a dog"]
    [last] = studio.batches.images(batch_id, 2, first[-1].id)
    assert last.params.prompt == "an owl"
    studio.trash(last.id)
    assert studio.batches.images(batch_id, 2, first[-1].id) == []


def test_a_zip_has_every_picture_and_the_list(services: Services, work: Work) -> None:
    studio = services.studio
    batch_id = make_list(studio, "a cat --seed 7\nno/such: \\name* --seed 8")
    work()
    waiting = studio.lists.submit("never", window="00:00-00:01", **SMALL)  # another batch
    assert waiting.count == 1
    with zipfile.ZipFile(io.BytesIO(b"".join(studio.batches.zip(batch_id)))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["00001-a-cat-7.png", "00002-no-such-name-8.png", "results.csv"]
        [first, _] = studio.batches.images(batch_id)
        assert archive.read("00001-a-cat-7.png") == studio.picture_file(first.id).read_bytes()
        result = list(csv.DictReader(io.StringIO(archive.read("results.csv").decode())))
    assert [row["file"] for row in result] == ["00001-a-cat-7.png", "00002-no-such-name-8.png"]
    assert {row["state"] for row in result} == {"done"}


def test_a_zip_is_made_in_little_memory(services: Services, work: Work) -> None:
    studio = services.studio
    batch_id = make_list(studio, "a cat")
    work()
    [image] = studio.batches.images(batch_id)
    with studio.picture_file(image.id).local_path.open("ab") as file:
        file.write(bytes(40_000_000))
    tracemalloc.start()
    size = sum(len(piece) for piece in studio.batches.zip(batch_id))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 40_000_000
    assert peak < 8_000_000


def test_a_contact_sheet_is_drawn_and_kept_until_more_is_done(services: Services, work: Work) -> None:
    studio = services.studio
    batch_id = make_list(studio)
    empty = studio.batches.contact_sheet(batch_id)
    assert studio.batches.contact_sheet(batch_id) == empty
    work()
    full = studio.batches.contact_sheet(batch_id)
    assert full != empty
    assert not empty.exists()
    with full.open() as file, PIL.open(file) as sheet:
        assert sheet.format == "WEBP"
        assert sheet.width > 300
    studio.batches.rename(batch_id, "owls")
    assert studio.batches.contact_sheet(batch_id) != full


@pytest.mark.sqlite
def test_a_page_of_batches_is_quick_with_a_long_queue(services: Services) -> None:
    studio = services.studio
    make_list(studio)
    make_one(services)
    with sql(services.settings) as db:
        db.executescript("DROP TRIGGER jobs_revision_insert; DROP TRIGGER job_events_insert;")
        columns = "batch_id, state, params, model, cost, lane, priority, created_at, kind, pixels, steps"
        db.execute(
            f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000) "
            f"INSERT INTO jobs (id, idx, position, {columns}) SELECT 'job' || n, n + 10, n + 10, {columns} "
            "FROM n, (SELECT * FROM jobs WHERE state = 'queued' LIMIT 1)"
        )
    began = datetime.now(UTC)
    [progress] = studio.batches.page()
    took = (datetime.now(UTC) - began).total_seconds()
    assert progress.counts[State.QUEUED] == 20_002
    assert progress.done_at is not None
    assert took < soon(1)  # about 0.03 s on an idle machine
