"""No room, and a database that cannot be written: jobs wait or are tried again, and the queue continues by itself."""

import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from diffusion_local.compose import Services, open_services
from diffusion_local.domain import State
from diffusion_local.errors import QueueBlocked
from tests.durability.conftest import WORKER, Start, assert_sound, ended, pid_of, running, states, submit
from tests.support import eventually

IMPATIENT = (
    "from diffusion_local.db import sqlite_connections; from diffusion_local.worker import reporting, runner; "
    "sqlite_connections.BUSY_SECONDS = 0.3; reporting.DATABASE_PAUSE = runner.DATABASE_PAUSE = 0.2"
)


@pytest.fixture
def small_gallery(services: Services) -> Iterator[Path]:
    """The gallery on a disk of its own, of 2 MB."""
    folder = services.settings.gallery_folder
    if not mounted(folder, "2m"):
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def mounted(folder: Path, size: str) -> bool:
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return bool(mount) and subprocess.run(command, capture_output=True).returncode == 0


def fill(folder: Path, leave: int) -> Path:
    """Fill a disk but for ``leave`` bytes; the file to delete."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        while (free := shutil.disk_usage(folder).free - leave) > 0:
            file.write(b"x" * min(free, 65536))
            file.flush()
    return filler


def test_below_the_reserve_nothing_is_claimed_and_with_room_again_it_goes_on_by_itself(
    services: Services, small_gallery: Path, start: Start
) -> None:
    filler = fill(small_gallery, 500_000)
    [job_id] = submit(services)
    start(WORKER, disk_reserve_mb=1)
    reason = eventually(lambda: services.studio.snapshot().reason, 30)
    assert "less than 1 MB" in reason
    assert states(services, job_id) == ["queued"]
    filler.unlink()
    [job] = ended(services, job_id)
    assert (job.state, job.attempt) == (State.DONE, 1)
    assert services.studio.snapshot().reason == ""
    assert_sound(services)


def test_a_reserve_that_is_lowered_lets_the_queue_go_on(services: Services, start: Start) -> None:
    [job_id] = submit(services)
    careful = start(WORKER, disk_reserve_mb=10**9)
    assert "Free some space" in eventually(lambda: services.studio.snapshot().reason, 30)
    assert states(services, job_id) == ["queued"]
    careful.terminate()
    assert careful.wait(20) == 0
    start(WORKER, disk_reserve_mb=1)
    [job] = ended(services, job_id)
    assert job.state is State.DONE
    assert services.studio.snapshot().reason == ""


def test_a_disk_that_fills_up_in_the_middle_of_a_write_loses_nothing(
    services: Services, small_gallery: Path, start: Start
) -> None:
    filler = fill(small_gallery, 12_000)
    child = start(WORKER, disk_reserve_mb=0)
    [job_id] = submit(services, "a red apple", width=512, height=512)
    assert "disk is full" in eventually(lambda: services.studio.snapshot().reason, 30)
    with pytest.raises(QueueBlocked, match="disk is full"):
        submit(services)
    eventually(lambda: not [p for p in small_gallery.rglob("*") if p.is_file() and p != filler])  # nothing half-written
    filler.unlink()
    eventually(lambda: services.studio.snapshot().reason == "", 30)
    jobs = ended(services, job_id, *submit(services))
    assert [(job.state, job.attempt, job.tries, job.faults, job.crashes) for job in jobs] == [
        (State.DONE, 1, 0, 0, 0)  # the finished picture was kept, and not made again
    ] * 2
    assert services.studio.snapshot().reason == ""
    assert child.poll() is None
    assert_sound(services)


def test_a_home_on_a_full_disk_stops_nobody_and_loses_nothing(services: Services, start: Start) -> None:
    """Databases, doorbell, logs and gallery: not a byte can be written anywhere."""
    home = services.settings.home
    services.database.close()
    shutil.rmtree(home)
    home.mkdir()
    if not mounted(home, "8m"):
        pytest.skip("mounting a small disk is not permitted here")
    try:
        services.settings.make_folders()
        fresh = open_services(services.settings)
        child = start(IMPATIENT, WORKER, disk_reserve_mb=0)
        ids = submit(fresh, "[slow:0.1]", count=3, steps=5)
        running(fresh, ids[0], step=1)
        fill(home, 0)
        eventually(lambda: "cannot be used" in child.log_path.read_text(), 30)
        (home / "filler").unlink()
        jobs = ended(fresh, *ids)
        assert {job.state for job in jobs} == {State.DONE}
        assert child.poll() is None
        assert_sound(fresh)
        fresh.database.close()
    finally:
        subprocess.run(["umount", "-l", home], check=False)


@pytest.mark.parametrize("moment", [pytest.param("denoise", marks=pytest.mark.slow), "save"])
def test_a_database_locked_for_longer_than_anyone_waits_loses_nothing(
    services: Services, start: Start, moment: str
) -> None:
    child = start(IMPATIENT, WORKER)
    ids = submit(services, "[slow:0.05]", count=5)
    if moment == "denoise":
        running(services, ids[0], step=1)
    else:
        eventually(lambda: list(services.settings.gallery_folder.rglob("*.png")), 30)
    with closing(sqlite3.connect(services.settings.database_file, timeout=15, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        # It hears of the lock at its next claim, or with a picture whose row is not written yet.
        said = ("cannot be used", "could not be saved")
        eventually(lambda: any(words in child.log_path.read_text() for words in said))
        threading.Event().wait(1.0)  # it tries again, in vain, more than once
        holder.execute("ROLLBACK")
    jobs = ended(services, *ids)
    assert {job.state for job in jobs} == {State.DONE}
    assert {job.crashes for job in jobs} == {0}
    assert child.poll() is None
    assert pid_of(services) == child.pid
    assert assert_sound(services)["images"] == 5
