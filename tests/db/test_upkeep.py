"""Space of what was deleted comes back: bit by bit, without keeping writers waiting, and words leave the index."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.db import upkeep
from diffusion_local.db.database import Database
from diffusion_local.errors import DatabaseProblem
from diffusion_local.gallery.retention import days_ago, delete_old_jobs
from diffusion_local.supervisor.housekeeping import give_back_space
from tests.support import claimed, enqueue, image_of, sql

PROMPT = "an apple on a table, " * 40


def filled(services: Services, count: int = 2000) -> None:
    """Jobs that ended long ago."""
    enqueue(services.jobs, count, prompt=PROMPT)
    with sql(services.settings) as db:
        then = "2020-01-01T00:00:00.000Z"
        db.execute("UPDATE jobs SET state = 'cancelled', created_at = ?1, finished_at = ?1", [then])


def made_old(database: Database) -> None:
    """As a database that was made before there was incremental vacuum."""
    database.close()
    with sql(database) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    assert not upkeep.measure(database).incremental


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def test_a_new_database_gives_free_pages_back_in_steps(services: Services) -> None:
    filled(services)
    kept = enqueue(services.jobs, 10)
    before = upkeep.measure(services.database)
    assert before.incremental
    assert delete_old_jobs(services.settings, services.database) == 2000
    free = upkeep.measure(services.database)
    assert free.worth_it
    assert free.free > before.size / 2
    steps = upkeep.release_pages(services.database, 60)
    assert len(steps) > 1
    upkeep.truncate_log(services.database)
    assert upkeep.measure(services.database).free == 0
    assert bytes_on_disk(services.settings.database_file) < before.size / 2
    assert services.database.findings() == []
    assert sorted(job.id for job in services.studio.jobs(limit=100)) == sorted(kept)


def test_time_is_bounded_and_the_rest_is_for_the_next_time(services: Services) -> None:
    filled(services)
    delete_old_jobs(services.settings, services.database)
    free = upkeep.measure(services.database).free
    assert upkeep.release_pages(services.database, 0) == []
    assert upkeep.measure(services.database).free == free


def test_an_old_database_is_rewritten_once(services: Services) -> None:
    filled(services)
    made_old(services.database)
    delete_old_jobs(services.settings, services.database)
    before = bytes_on_disk(services.settings.database_file)
    give_back_space(services)
    after = upkeep.measure(services.database)
    assert after.incremental
    assert after.free == 0
    assert bytes_on_disk(services.settings.database_file) < before / 2
    assert services.database.findings() == []


def test_an_old_large_one_is_not_rewritten_while_jobs_wait(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SMALL_BYTES", 1000)
    filled(services)
    made_old(services.database)
    delete_old_jobs(services.settings, services.database)
    enqueue(services.jobs)
    assert upkeep.shrink(services.database, 0, 1) == 0
    services.jobs.stop(claimed(services.jobs).claim)
    monkeypatch.setattr(upkeep, "LARGE_BYTES", 1000)
    assert upkeep.shrink(services.database, 0, 1) == 0
    assert upkeep.shrink(services.database, 10**18, 1, force=True) == 0  # no room for the copy
    assert upkeep.shrink(services.database, 0, 1, force=True) > 1_000_000


def test_little_is_left_alone(services: Services) -> None:
    enqueue(services.jobs, 20)
    with sql(services.settings) as db:
        db.execute("DELETE FROM jobs")
    assert not upkeep.measure(services.database).worth_it
    assert upkeep.shrink(services.database, 0, 10) == 0


def test_a_reader_holds_nothing_up(services: Services) -> None:
    filled(services)
    delete_old_jobs(services.settings, services.database)
    with sql(services.settings) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        give_back_space(services)
    give_back_space(services)
    assert upkeep.measure(services.database).free == 0


def test_another_program_that_writes_is_waited_for(services: Services) -> None:
    filled(services)
    delete_old_jobs(services.settings, services.database)
    with sql(services.settings) as other, services.database.outside_transaction() as conn:
        other.execute("BEGIN IMMEDIATE")
        conn.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(DatabaseProblem, match="locked"):
            upkeep.release_pages(services.database, 10)
    assert upkeep.release_pages(services.database, 10)


def test_words_of_deleted_pictures_leave_the_index(services: Services) -> None:
    secret = "zyzzyva"
    for prompt in (secret, "an apple", "a pear"):
        services.studio.submit(prompt, width=128, height=128)
        job = claimed(services.jobs)
        services.jobs.finish(job.claim, image_of(job))
    assert in_index(services, secret)
    [gone] = [image.id for image in services.studio.gallery() if image.params.prompt == secret]
    with services.database.write() as db:
        db.execute("DELETE FROM images WHERE id = ?", [gone])
    assert in_index(services, secret)
    assert upkeep.merge_text_index(services.database, days_ago(-1), 10) == 0  # none was deleted since
    assert upkeep.merge_text_index(services.database, days_ago(1), 10)
    assert not in_index(services, secret)
    assert len(services.studio.gallery(search="apple")) == 1
    with services.database.write() as db:
        db.execute("INSERT INTO images_text (images_text) VALUES ('integrity-check')")


def in_index(services: Services, word: str) -> bool:
    with sql(services.settings) as db:
        return any(word[1:-1].encode() in row[0] for row in db.execute("SELECT block FROM images_text_data"))


def test_the_doorbells_file_shrinks_and_rings_do_not_pile_up(services: Services) -> None:
    for _ in range(200):
        services.queue.ring(16)
    assert services.queue.pending() == 16
    path = services.settings.queue_database
    with sql(path) as db:
        db.execute("INSERT INTO task (queue, data, priority) SELECT 'x', zeroblob(3000000), 0")
        db.execute("DELETE FROM task WHERE queue = 'x'")
    assert upkeep.shrink_file(path) > 2_000_000
    assert services.queue.pending() == 16
    assert upkeep.shrink_file(path) == 0
    assert upkeep.shrink_file(path.with_name("none.db")) == 0


def test_forgetting_everything_twice_is_harmless(services: Services) -> None:
    keeping = replace(services, settings=replace(services.settings, disk_reserve_mb=10**9))
    filled(services, 100)
    give_back_space(keeping)
    give_back_space(keeping)
    assert services.database.findings() == []
