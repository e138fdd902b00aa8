"""Housekeeping: what is let go is let go in time, what is kept is kept, and nothing is deleted that a person made."""

import io
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.compose import Services
from diffusion_local.domain import utc_text
from diffusion_local.errors import DatabaseProblem
from diffusion_local.gallery.files import key_for
from diffusion_local.messages import verbatim
from diffusion_local.queue.machines import hour_of
from diffusion_local.supervisor.housekeeping import CHORES, delete_expired, optimize, run_or_postpone, sweep_gallery
from tests.support import FAILURE, claimed, image_of, sql


def made(services: Services, with_file: bool = True) -> str:
    services.studio.submit("x", width=128, height=128)
    job = claimed(services.jobs)
    if with_file:
        put_file(services, job.id, job.created_at)
    services.jobs.finish(job.claim, image_of(job))
    return job.id


def put_file(services: Services, job_id: str, created_at: str) -> Path:
    key = key_for(job_id, created_at)
    services.files.save(key, PIL.new("RGB", (8, 8)), {})
    return services.files.picture(key).local_path


def aged(services: Services, table: str, column: str, days: float) -> None:
    then = utc_text(datetime.now(UTC) - timedelta(days=days))
    with sql(services.settings) as db:
        db.execute(f"UPDATE {table} SET created_at = ?, {column} = ? WHERE {column} IS NOT NULL", [then, then])


def strays(services: Services) -> list[str]:
    return sorted(path.stem for path in services.settings.strays.rglob("*.png"))


def test_hourly_counts_of_pictures_are_deleted_after_a_week(services: Services) -> None:
    hours = [hour_of(datetime.now(UTC) - timedelta(days=days)) for days in (30, 8, 6, 0)]
    with sql(services.settings) as db:
        for hour in hours:
            db.execute("INSERT INTO slot_pictures (slot, hour, pictures) VALUES ('gpu0', ?, 5)", [hour])
    delete_expired(services)
    with sql(services.settings) as db:
        assert [row[0] for row in db.execute("SELECT hour FROM slot_pictures ORDER BY hour")] == hours[2:]


def test_a_picture_without_a_row_is_moved_aside_and_not_deleted(services: Services) -> None:
    kept = made(services)
    path = put_file(services, "stray", "2026-11-22T10:00:00.000Z")
    sweep_gallery(services)
    assert strays(services) == ["stray"]
    assert not path.exists()
    assert not path.with_suffix(".webp").exists()
    assert [image.id for image in services.studio.gallery()] == [kept]
    assert services.studio.picture_file(kept).exists()


def test_a_picture_whose_row_is_about_to_be_written_is_left_alone(services: Services) -> None:
    services.studio.submit("x")
    job = claimed(services.jobs)
    put_file(services, job.id, job.created_at)  # bytes before rows
    sweep_gallery(services)
    services.jobs.requeue(job.claim, "stopped")
    sweep_gallery(services)
    assert strays(services) == []
    services.jobs.fail(claimed(services.jobs).claim, FAILURE)
    sweep_gallery(services)
    assert strays(services) == [job.id]


def test_a_row_whose_file_is_gone_goes_to_the_trash(services: Services) -> None:
    kept, gone = made(services), made(services, with_file=False)
    sweep_gallery(services)
    assert [image.id for image in services.studio.gallery()] == [kept]
    assert [image.id for image in services.studio.gallery(trashed=True)] == [gone]


def test_half_written_files_of_the_dead_are_cleared_and_of_the_living_left(services: Services) -> None:
    folder = services.studio.picture_file(made(services)).local_path.parent
    old, young = folder / ".old.part", folder / ".young.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 86400, time.time() - 86400))
    sweep_gallery(services)
    assert (old.exists(), young.exists()) == (False, True)


def test_old_ended_jobs_are_forgotten_and_their_pictures_kept(services: Services) -> None:
    old = made(services)
    aged(services, "jobs", "finished_at", 91)
    young = made(services)
    [waiting] = services.studio.submit("x").job_ids
    delete_expired(services)
    assert {job.id for job in services.studio.jobs()} == {young, waiting}
    assert {image.id for image in services.studio.gallery()} == {old, young}
    with sql(services.settings) as db:
        assert {row["job_id"] for row in db.execute("SELECT job_id FROM job_events")} == {young, waiting}
        if not services.settings.database:  # a server checks them itself
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_trash_is_emptied_after_its_time(services: Services) -> None:
    old = made(services)
    path = services.studio.picture_file(old).local_path
    services.studio.trash(old)
    delete_expired(services)
    assert path.exists()
    aged(services, "images", "trashed_at", 31)
    delete_expired(services)
    assert not path.exists()
    assert services.studio.gallery(trashed=True) == []


@pytest.mark.parametrize("days", [1000.0, 100_000.0 / 24])
def test_zero_days_keep_for_ever(services: Services, days: float) -> None:
    keeping = replace(services, settings=replace(services.settings, keep_jobs_days=0, keep_trash_days=0))
    old = made(services)
    services.studio.trash(old)
    aged(services, "jobs", "finished_at", days)
    aged(services, "images", "trashed_at", days)
    delete_expired(keeping)
    assert [job.id for job in services.studio.jobs()] == [old]
    assert [image.id for image in services.studio.gallery(trashed=True)] == [old]


def test_previews_of_the_dead_are_cleared(services: Services) -> None:
    services.settings.previews.mkdir(exist_ok=True)
    old, young = (services.files.preview(each).local_path for each in ("old", "young"))
    for preview in (old, young):
        preview.write_bytes(b"x")
    os.utime(old, (time.time() - 86400, time.time() - 86400))
    delete_expired(services)
    assert (old.exists(), young.exists()) == (False, True)


def test_every_chore_may_run_at_any_time_and_twice(services: Services) -> None:
    kept = made(services)
    for _, chore, hours in CHORES * 2:
        chore(services)
        assert hours in (1, 2, 3, 4, 6, 8, 12, 24)
    optimize(services)
    assert services.studio.picture_file(kept).exists()


def test_names_of_chores_are_kept_for_ever() -> None:
    """Huey drops a message whose task it does not know: add names, never rename them."""
    assert {"sweep_gallery", "let_go", "optimize"} <= {name for name, _, _ in CHORES}


def test_a_source_that_nothing_refers_to_is_let_go_after_its_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def added(color: str, days: float) -> Path:
        data = io.BytesIO()
        PIL.new("RGB", (128, 128), color).save(data, "PNG")
        path = services.studio.sources.file(services.studio.sources.add(data.getvalue()).id).local_path
        os.utime(path, (time.time() - days * 86400,) * 2)
        return path

    monkeypatch.setattr(families, "references_of", lambda architecture: 3)
    colors = {"red": 31, "blue": 29, "green": 31, "white": 31, "black": 31, "gold": 31, "pink": 31}
    unused, fresh, seen, base, mask, again, beside = (added(color, days) for color, days in colors.items())
    services.studio.submit("x", kind="inpaint", source=base.stem, mask=mask.stem)
    services.studio.submit("x", source=seen.stem)
    referring = services.studio.submit("x", references=[{"image": beside.stem}]).job_ids[0]
    drawn = claimed(services.jobs)
    services.jobs.finish(drawn.claim, image_of(drawn))
    services.studio.sources.size(again.stem)  # as a submit that is under way does
    for path in (seen, base, mask, beside):
        os.utime(path, (time.time() - 31 * 86400,) * 2)
    delete_expired(replace(services, settings=replace(services.settings, keep_sources_days=0)))
    assert unused.exists()
    delete_expired(services)
    assert [path.exists() for path in (unused, fresh, seen, base, mask, again)] == [False, True, True, True, True, True]
    assert beside.exists()
    with sql(services.settings) as db:
        for job_id, params in [tuple(row) for row in db.execute("SELECT id, params FROM jobs")]:
            kept = {name: value for name, value in json.loads(params).items() if name not in ("source", "mask")}
            db.execute("UPDATE jobs SET params = ? WHERE id = ?", [json.dumps(kept), job_id])
        db.execute("DELETE FROM jobs WHERE id = ?", [referring])
    delete_expired(services)
    assert not beside.exists()
    kept = {drawn.params.source, drawn.params.mask}
    assert {path.stem for path in (seen, base, mask) if path.exists()} == kept - {""}


@pytest.mark.parametrize("fault", [DatabaseProblem(verbatim("locked")), OSError(5, "Input/output error")])
def test_a_fault_of_the_storage_puts_a_chore_off(
    services: Services, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def chore(_: Services) -> None:
        raise fault

    run_or_postpone(chore, services)
    assert "chore was postponed" in caplog.text
