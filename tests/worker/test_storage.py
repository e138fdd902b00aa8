"""Gallery and database that cannot be written for a while: the queue is held, and no job pays for it."""

import errno
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch import storage_faults
from diffusion_local.domain import State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import StorageProblem
from diffusion_local.gallery import files
from diffusion_local.worker import reporting, runner, saving
from diffusion_local.worker.runner import MAX_TRIES, Runner
from diffusion_local.worker.stopping import Stop
from tests.support import eventually, every, sql
from tests.worker.test_runner import now_due, pictures, submit
from tests.workers import open_runner

FAULTS = (
    "EACCES",
    "EROFS",
    "EIO",
    "EMFILE",
    "ENFILE",
    "ENOENT",
    "ESTALE",
    "ENOTCONN",
    "EHOSTDOWN",
    "ETIMEDOUT",
    "ENOSPC",
    "EDQUOT",
    "EFBIG",
)

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_faults, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(storage_faults, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(saving, "TRY_SECONDS", 0.02)
    monkeypatch.setattr(saving, "KEEP_SECONDS", 0.05)
    monkeypatch.setattr(reporting, "DATABASE_PAUSE", 0.05)
    monkeypatch.setattr(runner, "DATABASE_PAUSE", 0.05)


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def worker(services: Services, stop: Stop) -> Iterator[Runner]:
    opened = open_runner(services, "cpu0", FakeEngine(0), stop)
    yield opened
    stop.request()
    opened.close()


@pytest.fixture
def working(worker: Runner, stop: Stop) -> Iterator[None]:
    """The worker's loop, on a thread of its own."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(0.02):
            worker.run_due_jobs()

    thread = threading.Thread(target=loop)
    thread.start()
    yield
    over.set()
    stop.request()
    thread.join()


class Disk:
    """Refuses new files below a folder while ``number`` is an error's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.refused = 0
        make = tempfile.mkstemp

        def mkstemp(*args: Any, **kwargs: Any) -> tuple[int, str]:
            if self.number and Path(kwargs["dir"]).is_relative_to(folder):
                self.refused += 1
                raise OSError(self.number, os.strerror(self.number), str(kwargs["dir"]))
            return make(*args, **kwargs)

        monkeypatch.setattr(tempfile, "mkstemp", mkstemp)


@pytest.fixture
def disk(services: Services, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(services.settings.gallery_folder, monkeypatch)


def done(services: Services, ids: list[str]) -> Callable[[], bool]:
    return lambda: all(services.jobs.get(job_id).final for job_id in ids)


@pytest.mark.parametrize("name", every(3, FAULTS))
def test_a_fault_of_the_disk_holds_the_queue_and_no_job_pays_for_it(
    services: Services, disk: Disk, working: None, name: str
) -> None:
    disk.number = getattr(errno, name)
    ids = submit(services, count=3)
    reason = eventually(lambda: services.studio.snapshot().reason)
    assert "continues by itself" in reason
    assert str(services.settings.home) not in reason
    refused = disk.refused
    eventually(lambda: disk.refused > refused + 2)  # it asks again and again
    assert [services.jobs.get(job_id).state for job_id in ids].count(State.QUEUED) >= 1
    disk.number = 0
    eventually(done(services, ids))
    jobs = [services.jobs.get(job_id) for job_id in ids]
    assert [(job.state, job.tries, job.faults, job.crashes) for job in jobs] == [(State.DONE, 0, 0, 0)] * 3
    assert [job.attempt for job in jobs] == [1, 1, 1]  # what was made when the fault came is saved, not made again
    assert pictures(services) == sorted(ids)
    assert eventually(lambda: services.studio.snapshot().reason == "")


def test_a_fault_that_only_one_job_meets_is_tried_three_times_and_fails_by_name(
    services: Services, worker: Runner
) -> None:
    [cursed], [sound] = submit(services), submit(services)
    job = services.jobs.get(cursed)
    (services.settings.gallery_folder / f"{files.key_for(job.id, job.created_at)}.png").mkdir(
        parents=True
    )  # in its way
    waits = []
    for count in range(1, MAX_TRIES):
        worker.run_due_jobs()
        job = services.jobs.get(cursed)
        assert (job.state, job.faults, job.tries, job.attempt) == (State.QUEUED, count, 0, count)
        waits.append(job.not_before or "")
        assert services.jobs.get(sound).state is State.DONE
        assert services.control.blocked_reason() == ""
        now_due(services)
    assert len(set(waits)) == MAX_TRIES - 1
    worker.run_due_jobs()
    job = services.jobs.get(cursed)
    assert job.failure is not None
    assert (job.state, job.failure.kind, job.tries, job.crashes) == (State.FAILED, "storage_error", 0, 0)
    assert job.failure.message.startswith("gallery/")  # which file, relative to the home; why; what to do
    assert os.strerror(errno.EISDIR) in job.failure.message
    assert "Check" in job.failure.message


def test_a_job_that_was_cancelled_while_it_waited_to_be_saved_is_cancelled(
    services: Services, disk: Disk, working: None
) -> None:
    disk.number = errno.EIO
    [job_id] = submit(services)
    eventually(lambda: services.studio.snapshot().reason)
    services.studio.queue.cancel([job_id])
    eventually(done(services, [job_id]))
    assert services.jobs.get(job_id).state is State.CANCELLED
    disk.number = 0
    assert pictures(services) == []


def test_a_stop_gives_a_picture_that_waits_to_be_saved_back(
    services: Services, disk: Disk, working: None, stop: Stop
) -> None:
    disk.number = errno.EIO
    [job_id] = submit(services)
    eventually(lambda: services.studio.snapshot().reason)
    stop.request()
    job = eventually(lambda: job if (job := services.jobs.get(job_id)).state is State.QUEUED else None)
    assert (job.tries, job.faults, job.crashes) == (0, 0, 0)
    assert services.studio.events(job_id)[-1].note == "returned to the queue: shutdown"


def test_a_preview_that_cannot_be_written_does_not_matter(
    services: Services, worker: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "PREVIEW_SECONDS", 0.0)
    previews = Disk(services.settings.previews, monkeypatch)
    previews.number = errno.EROFS
    [job_id] = submit(services)
    worker.run_due_jobs()
    assert services.jobs.get(job_id).state is State.DONE
    assert previews.refused


def test_a_gallery_that_is_gone_is_not_made_anew(services: Services, working: None) -> None:
    gallery = services.settings.gallery_folder
    away = gallery.with_name("away")
    [before] = submit(services)
    eventually(done(services, [before]))
    services.control.pause()
    ids = submit(services, count=2)  # before it goes: an idle worker would close the queue
    gallery.rename(away)
    services.control.resume()
    reason = eventually(lambda: services.studio.snapshot().reason)
    assert reason.startswith("gallery cannot be used")
    assert "mounted" in reason
    assert not gallery.exists()
    away.rename(gallery)
    eventually(done(services, ids))
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    assert pictures(services) == sorted([before, *ids])


def test_a_picture_that_waits_keeps_its_worker_from_counting_as_hung(
    services: Services, disk: Disk, working: None
) -> None:
    disk.number = errno.ESTALE
    [job_id] = submit(services)
    eventually(lambda: services.studio.snapshot().reason)

    def reported() -> str:
        [(_, at, _)] = services.view.running_reports("cpu0", 1)
        return at

    first = reported()
    eventually(lambda: reported() > first)
    assert services.jobs.get(job_id).phase == "saving"


def test_a_gallery_that_does_not_answer_holds_the_queue(
    services: Services, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_faults, "SLOW_SECONDS", 0.2)
    answers, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (answers.wait(), fsync(descriptor)))
    ids = submit(services, count=3)
    try:
        assert "does not respond" in eventually(lambda: services.studio.snapshot().reason)
    finally:
        answers.set()
    eventually(done(services, ids))
    jobs = [services.jobs.get(job_id) for job_id in ids]
    assert [(job.state, job.attempt, job.faults, job.crashes) for job in jobs] == [(State.DONE, 1, 0, 0)] * 3
    assert eventually(lambda: services.studio.snapshot().reason == "")


def test_a_database_fault_in_the_middle_of_denoising_throws_no_work_away(
    services: Services, worker: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    def broken(*args: Any) -> Any:
        failed.append(1)
        with services.database.write():
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(services.jobs, "report_all", broken)
    [job_id] = submit(services)
    worker.run_due_jobs()
    job = services.jobs.get(job_id)
    assert failed
    assert (job.state, job.attempt, job.faults) == (State.DONE, 1, 0)


def test_a_claim_that_was_written_although_a_fault_was_reported_is_given_back(
    services: Services, worker: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_jobs = services.jobs.claim

    def claim(*args: Any) -> Any:
        claim_jobs(*args)
        with services.database.read():
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(services.jobs, "claim", claim)
    [job_id] = submit(services)
    worker.run_due_jobs()
    monkeypatch.undo()
    worker.run_due_jobs()
    job = services.jobs.get(job_id)
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 2, 0)


def test_a_job_whose_row_can_never_be_written_comes_to_an_end(services: Services, worker: Runner) -> None:
    """The database refuses this one picture's row each time, and takes all others."""
    [job_id], [sound] = submit(services), submit(services)
    with sql(services.settings) as db:
        db.execute(
            "CREATE TRIGGER refused BEFORE INSERT ON images WHEN new.job_id = "
            f"'{job_id}' BEGIN SELECT RAISE(ABORT, 'database disk image is malformed'); END"
        )
    for _ in range(MAX_TRIES):
        worker.run_due_jobs()
        now_due(services)
    job = services.jobs.get(job_id)
    assert services.jobs.get(sound).state is State.DONE
    assert job.failure is not None
    assert (job.state, job.failure.kind, job.attempt) == (State.FAILED, "storage_error", MAX_TRIES)


def test_the_probe_leaves_nothing_behind(services: Services) -> None:
    services.files.probe()
    assert [path for path in services.settings.gallery_folder.rglob("*") if path.is_file()] == []
    services.settings.gallery_folder.rename(services.settings.home / "away")
    with pytest.raises(StorageProblem, match="mounted"):
        services.files.probe()
