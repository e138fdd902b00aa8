"""Gallery and database turned unwritable, or gone, or silent for seconds, under real processes: every fault passes.

The processes obey permissions, though the tests may run as root.
"""

import contextlib
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.errors import QueueBlocked
from tests.durability.conftest import SERVE, WORKER, Start, assert_sound, ended, pid_of, running, submit
from tests.support import REPOSITORY, eventually

OBEY = "from scripts.unprivileged import obey_permissions; obey_permissions()"
IMPATIENT = """
from diffusion_local.dispatch import storage_faults
from diffusion_local.worker import reporting, runner, saving
storage_faults.PROBE_SECONDS = saving.TRY_SECONDS = saving.KEEP_SECONDS = 0.2
reporting.DATABASE_PAUSE = runner.DATABASE_PAUSE = 0.2
"""
#: The first save waits for a file of the home.
AT_THE_SAVE = """
import os, time
from pathlib import Path
from diffusion_local.worker.saving import Saver
save, home = Saver._save, Path(os.environ["DIFFUSION_LOCAL_HOME"])
def held(self, *args):
    (home / "saving").touch()
    while not (home / "go on").exists():
        time.sleep(0.02)
    return save(self, *args)
Saver._save = held
"""
#: For every Python of a home: whatever is synced in the gallery waits while a file of the home is there, as on a share
#: whose server went away.
HANGING = """
import os, sys, time
from pathlib import Path
fsync, hang = os.fsync, Path({hang!r})
def slow(descriptor):
    while hang.exists() and "/gallery/" in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        time.sleep(0.02)
    fsync(descriptor)
os.fsync = slow
if "diffusion_local.worker" in sys.orig_argv:
    from diffusion_local.dispatch import storage_faults
    from diffusion_local.worker import saving
    saving.KEEP_SECONDS, storage_faults.WATCH_SECONDS, storage_faults.SLOW_SECONDS = 0.2, 0.2, 0.5
"""
#: Longer than the supervisors of these tests, whose ``step_timeout`` is 1, take to kill a worker that hangs.
LONG = timedelta(seconds=4)


@contextlib.contextmanager
def unwritable(*paths: Path) -> Iterator[None]:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def folders(services: Services) -> list[Path]:
    gallery = services.settings.gallery_folder
    return [gallery, *(path for path in gallery.rglob("*") if path.is_dir())]


def assert_nothing_paid(services: Services, ids: list[str], attempts: int = 1) -> None:
    jobs = ended(services, *ids)
    paid = {(job.state, job.tries, job.faults, job.crashes) for job in jobs}
    assert paid == {(State.DONE, 0, 0, 0)}
    assert max(job.attempt for job in jobs) <= attempts
    assert_sound(services)


def test_a_gallery_that_is_unwritable_for_seconds_fails_nothing(services: Services, start: Start) -> None:
    child = start(OBEY, IMPATIENT, WORKER)
    ids = submit(services, count=20)
    ended(services, ids[0])
    with unwritable(*folders(services)):
        reason = eventually(lambda: services.studio.snapshot().reason, 30)
        assert "Check its owner and permissions" in reason
        with pytest.raises(QueueBlocked, match="Check its owner and permissions"):
            submit(services)
        assert not all(services.jobs.get(job_id).final for job_id in ids)  # what was submitted before waits
    eventually(lambda: services.studio.snapshot().reason == "", 30)
    assert_nothing_paid(services, ids + submit(services, count=5))
    assert services.studio.snapshot().reason == ""
    assert child.poll() is None


def test_a_database_that_was_read_only_at_a_workers_first_save_is_written_again(
    services: Services, start: Start
) -> None:
    """SQLite opens such a file read-only, and would keep it so for the life of the connection."""
    child = start(OBEY, IMPATIENT, AT_THE_SAVE, WORKER)
    ids = submit(services, count=3)
    eventually((services.settings.home / "saving").exists, 30)
    with unwritable(services.settings.database_file):
        (services.settings.home / "go on").touch()
        eventually(lambda: "readonly" in child.log_path.read_text(), 30)
    assert_nothing_paid(services, ids)
    assert child.poll() is None


def test_a_gallery_that_is_away_for_seconds_is_waited_for(services: Services, start: Start) -> None:
    child = start(IMPATIENT, WORKER)
    ids = submit(services, count=10)
    ended(services, ids[0])
    gallery, away = services.settings.gallery_folder, services.settings.home / "away"
    gallery.rename(away)
    assert "mounted" in eventually(lambda: services.studio.snapshot().reason, 30)
    assert not gallery.exists()
    away.rename(gallery)
    assert_nothing_paid(services, ids)
    assert child.poll() is None


def test_a_database_that_is_away_for_seconds_is_waited_for_and_not_made_anew(services: Services, start: Start) -> None:
    child = start(IMPATIENT, WORKER)
    ids = submit(services, "[slow:0.02]", count=10)
    ended(services, ids[0])
    services.database.close()
    files = [path for path in services.settings.home.glob("app.db*") if path.suffix != ".lock"]
    for path in files:
        path.rename(path.with_name(f"away-{path.name}"))
    eventually(lambda: "cannot be used" in child.log_path.read_text(), 30)
    assert not services.settings.database_file.exists()
    for path in files:
        path.with_name(f"away-{path.name}").rename(path)
    assert_nothing_paid(services, ids, attempts=2)
    assert child.poll() is None


@pytest.mark.slow
def test_a_share_that_hangs_holds_the_queue_and_its_worker_is_not_taken_for_hung(
    services: Services, start: Start, tmp_path: Path
) -> None:
    site, hang = tmp_path / "site", tmp_path / "hang"
    site.mkdir()
    hanging = HANGING.format(hang=str(hang))
    (site / "sitecustomize.py").write_text(hanging, encoding="utf-8")
    hang.touch()
    serve = start(hanging, SERVE, step_timeout=1, PYTHONPATH=f"{site}:{REPOSITORY}")
    ids = submit(services, count=3)
    assert "does not respond" in eventually(lambda: services.studio.snapshot().reason, 60)
    worker = pid_of(services)
    began = datetime.now(UTC)
    eventually(lambda: datetime.now(UTC) - began > LONG)
    hang.unlink()
    assert_nothing_paid(services, ids)
    assert pid_of(services) == worker
    serve.terminate()
    assert serve.wait(30) == 0


@pytest.mark.parametrize("moment", ["running", pytest.param("held", marks=pytest.mark.slow)])
def test_a_stop_while_the_storage_is_faulty_costs_no_job_anything(
    services: Services, start: Start, moment: str
) -> None:
    child = start(OBEY, IMPATIENT, WORKER)
    ids = submit(services, "[slow:0.05]", count=4)
    ended(services, ids[0])
    with unwritable(*folders(services)):
        if moment == "held":
            eventually(lambda: services.studio.snapshot().reason, 30)
        else:
            running(services, ids[1])
        child.terminate()
        assert child.wait(30) == 0
        assert {services.jobs.get(job_id).state for job_id in ids[1:]} <= {State.QUEUED, State.DONE}
    start(OBEY, IMPATIENT, WORKER)
    assert_nothing_paid(services, ids, attempts=2)


def test_a_stop_while_the_database_is_away_counts_no_crash(services: Services, start: Start) -> None:
    child = start(IMPATIENT, WORKER)
    ids = submit(services, "[slow:0.1]", count=2, steps=20)
    running(services, ids[0], step=2)
    services.database.close()
    away = services.settings.home / "away.db"
    services.settings.database_file.rename(away)
    child.terminate()
    assert child.wait(30) == 0
    away.rename(services.settings.database_file)
    start(IMPATIENT, WORKER)
    assert_nothing_paid(services, ids, attempts=2)


def test_the_supervisor_outlives_a_read_only_database_and_kills_nobody_for_it(services: Services, start: Start) -> None:
    serve = start(OBEY, SERVE, step_timeout=1)
    ids = submit(services, "[slow:0.05]", count=3, steps=10)
    running(services, ids[0], step=2)
    worker = pid_of(services)
    with unwritable(*(path for path in services.settings.home.glob("app.db*") if path.suffix != ".lock")):
        eventually(lambda: silence(services) > LONG, 60)
    assert_nothing_paid(services, ids)
    assert pid_of(services) == worker
    serve.terminate()
    assert serve.wait(30) == 0


def silence(services: Services) -> timedelta:
    """Since the newest report about a running job."""
    reports = [datetime.fromisoformat(at) for _, at, _ in services.view.running_reports("cpu0", 1)]
    return datetime.now(UTC) - max(reports, default=datetime.now(UTC))
