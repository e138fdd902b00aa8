"""What lies about after the worst: strays, rows without a file, a lost database; and what is let go after its time."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import NotFound
from diffusion_local.gallery.sweep import sweep
from diffusion_local.supervisor import housekeeping
from diffusion_local.worker.stopping import Stop
from tests.durability.conftest import assert_sound, submit
from tests.workers import open_runner


@pytest.fixture
def three(services: Services) -> list[str]:
    """Ids of three jobs that are done."""
    ids = submit(services, count=3)
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    return ids


def path_of(services: Services, image_id: str) -> Path:
    return services.files.picture(services.images.get(image_id).key).local_path


def doctor(services: Services, *options: str) -> Any:
    code = "from diffusion_local.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json", *options],
        env=services.settings.child_environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_picture_without_a_row_is_moved_aside_and_never_deleted(services: Services, three: list[str]) -> None:
    stray = path_of(services, three[0]).with_name("01ARZ3NDEKTSV4RRFFQ69G5FAV.png")
    shutil.copy(path_of(services, three[0]), stray)
    content = stray.read_bytes()
    housekeeping.sweep_gallery(services)
    assert not stray.exists()
    [moved] = services.settings.strays.rglob("*.png")
    assert moved.read_bytes() == content
    assert moved.relative_to(services.settings.strays) == stray.relative_to(services.settings.gallery_folder)
    assert_sound(services)


def test_a_picture_whose_job_still_runs_is_no_stray(services: Services, three: list[str]) -> None:
    """Its row may be written in this very moment."""
    [waiting] = submit(services)
    early = path_of(services, three[0]).with_name(f"{waiting}.png")
    shutil.copy(path_of(services, three[0]), early)
    assert sweep(services.files, services.database).strays == []
    assert early.exists()


def test_a_row_without_a_file_is_put_into_the_trash_and_comes_back_with_it(
    services: Services, three: list[str]
) -> None:
    lost = path_of(services, three[1])
    kept = lost.rename(lost.with_suffix(".kept"))
    assert sweep(services.files, services.database).missing == [three[1]]
    assert three[1] not in [image.id for image in services.studio.gallery()]
    with pytest.raises(NotFound):
        services.studio.picture_file(three[1])
    kept.rename(lost)
    services.studio.restore(three[1])
    assert three[1] in [image.id for image in services.studio.gallery()]
    assert_sound(services)


def test_a_thumbnail_whose_picture_never_came_is_dropped(services: Services, three: list[str]) -> None:
    """A worker died between the two, and its job was cancelled then."""
    alone = path_of(services, three[0]).with_name("01ARZ3NDEKTSV4RRFFQ69G5FAV.webp")
    shutil.copy(services.files.thumbnail(services.images.get(three[0]).key).local_path, alone)
    [waiting] = submit(services)
    needed = alone.with_name(f"{waiting}.webp")
    shutil.copy(alone, needed)
    sweep(services.files, services.database)
    assert not alone.exists()
    assert needed.exists()


def test_the_gallery_comes_back_from_the_pictures_after_the_database_is_gone(
    services: Services, three: list[str]
) -> None:
    before = sorted(services.studio.gallery(), key=lambda image: image.id)
    services.database.close()
    for file in services.settings.home.glob("app.db*"):
        file.unlink()
    broken = path_in(services, before[0].key).with_name("01ARZ3NDEKTSV4RRFFQ69G5FAV.png")
    broken.write_bytes(b"no picture")
    assert doctor(services, "--rebuild") == {"rebuilt": 3}
    fresh = open_services(services.settings)
    after = sorted(fresh.studio.gallery(), key=lambda image: image.id)
    assert after == before
    assert doctor(services, "--rebuild") == {"rebuilt": 0}
    assert sweep(fresh.files, fresh.database).missing == []
    assert all(path_in(services, image.key).exists() for image in after)
    fresh.database.close()


@pytest.mark.slow
def test_a_start_with_a_lost_database_moves_pictures_aside_and_the_rebuild_brings_them_back(
    services: Services, three: list[str]
) -> None:
    """``serve`` sweeps when it starts. What was a stray before, as its job was cancelled, stays one."""
    before = sorted(services.studio.gallery(), key=lambda image: image.id)
    services.database.close()
    for file in services.settings.home.glob("app.db*"):
        file.unlink()
    fresh = open_services(services.settings)
    [cancelled] = submit(fresh)
    fresh.studio.queue.cancel([cancelled])
    path_in(services, before[0].key).with_name(f"{cancelled}.png").write_bytes(
        path_in(services, before[0].key).read_bytes()
    )
    housekeeping.sweep_gallery(fresh)
    assert fresh.studio.gallery() == []
    assert doctor(services, "--rebuild") == {"rebuilt": 3}
    assert sorted(fresh.studio.gallery(), key=lambda image: image.id) == before
    assert sweep(fresh.files, fresh.database).missing == []
    assert [path.stem for path in services.settings.strays.rglob("*.png")] == [cancelled]
    fresh.database.close()


def path_in(services: Services, key: str) -> Path:
    return services.settings.gallery_folder / f"{key}.png"


def test_old_jobs_and_old_trash_are_let_go_and_pictures_stay(services: Services, three: list[str]) -> None:
    short = replace(services, settings=replace(services.settings, keep_jobs_days=1, keep_trash_days=1))
    files = {image_id: path_of(services, image_id) for image_id in three}
    services.studio.trash(three[0])
    services.studio.trash(three[1])
    [waiting] = submit(services)
    two_days_ago = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-2 days')"
    with services.database.write() as db:
        db.execute(
            f"UPDATE jobs SET created_at = {two_days_ago}, finished_at = {two_days_ago} WHERE id IN (?, ?)",
            [three[0], three[2]],
        )
        db.execute(f"UPDATE jobs SET created_at = {two_days_ago} WHERE id = ?", [waiting])
        db.execute(
            f"UPDATE images SET created_at = {two_days_ago}, trashed_at = {two_days_ago} WHERE id = ?", [three[0]]
        )
    housekeeping.delete_expired(short)
    assert {job.id for job in services.studio.jobs()} == {three[1], waiting}  # what waits is never let go
    assert [files[image_id].exists() for image_id in three] == [False, True, True]
    assert [image.id for image in services.studio.gallery()] == [three[2]]
    assert [image.id for image in services.studio.gallery(trashed=True)] == [three[1]]
    with services.database.read() as db:
        left = db.execute("SELECT count(*) FROM job_events WHERE job_id = ?", [three[0]]).fetchone()[0]
    assert left == 0
    housekeeping.delete_expired(services)  # by its own, longer terms nothing more goes
    assert len(services.studio.jobs()) == 2


def test_zero_days_keep_for_ever(services: Services, three: list[str]) -> None:
    forever = replace(services, settings=replace(services.settings, keep_jobs_days=0, keep_trash_days=0))
    services.studio.trash(three[0])
    with services.database.write() as db:
        db.execute("UPDATE jobs SET finished_at = '2001-01-01T00:00:00.000Z'")
        db.execute("UPDATE images SET trashed_at = '2001-01-01T00:00:00.000Z' WHERE trashed_at IS NOT NULL")
    housekeeping.delete_expired(forever)
    assert len(services.studio.jobs()) == 3
    assert path_of(services, three[0]).exists()


def test_a_gallery_whose_drive_is_away_is_left_as_it_is(services: Services) -> None:
    ids = submit(services, count=12)
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    services.settings.gallery_folder.rename(services.settings.home / "elsewhere")
    services.settings.gallery_folder.mkdir()
    assert sweep(services.files, services.database).missing == []
    assert len(services.studio.gallery()) == len(ids)
