"""Pictures that the studio could not take are kept on the worker's disk, and handed in if their claims still hold."""

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.dispatch import Finished, slots
from diffusion_local.domain import Condition, DeviceMemory, Job, State, utc_now
from diffusion_local.errors import HomeInUse, LostClaim
from diffusion_local.gallery.image_formats import encode
from diffusion_local.queue.estimates import JobTimings
from diffusion_local.remote.dispatch import StudioUnavailable
from diffusion_local.remote.spool import Spool
from diffusion_local.worker.stopping import Stop
from tests.remote.farm import Studio, joined, runner, spool_in
from tests.remote.test_dispatch import expire
from tests.support import enqueue, eventually


def picture(size: int = 128) -> Finished:
    encoded = encode(PIL.effect_noise((size, size), 99).convert("RGB"), {"parameters": "a"})
    return Finished(encoded, size, size, utc_now(), JobTimings(1, 1, 1, "resident"))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "spool" / "cpu0").glob("*.picture"))


def finished_while_away(studio: Studio, files: Any, folder: Path) -> Job:
    """A worker makes a picture, the studio goes away, and the worker is killed."""
    dispatch = joined(studio, files, spool=spool_in(folder))
    [job] = dispatch.claim("")
    studio.away = True
    with pytest.raises(StudioUnavailable):
        dispatch.finish(job.claim, picture())
    assert kept(folder) == [f"{job.id}-{job.attempt}.picture"]
    studio.away = False
    result: Job = job
    return result


def test_a_restarted_worker_hands_in_what_was_finished(
    services: Services, studio: Studio, files: Any, tmp_path: Path
) -> None:
    enqueue(services.jobs)
    job = finished_while_away(studio, files, tmp_path)
    joined(studio, files, spool=spool_in(tmp_path))
    assert services.jobs.get(job.id).state is State.DONE
    assert services.jobs.get(job.id).crashes == 0
    assert kept(tmp_path) == []
    assert len(list(services.settings.gallery_folder.rglob("*.png"))) == 1


def test_a_restarted_studio_takes_it_too(services: Services, studio: Studio, files: Any, tmp_path: Path) -> None:
    enqueue(services.jobs)
    job = finished_while_away(studio, files, tmp_path)
    joined(Studio(services), files, spool=spool_in(tmp_path))
    assert services.jobs.get(job.id).state is State.DONE


def test_a_picture_whose_claim_was_lost_is_dropped(
    services: Services, studio: Studio, files: Any, tmp_path: Path
) -> None:
    enqueue(services.jobs)
    job = finished_while_away(studio, files, tmp_path)
    expire(services)
    slots.recover_expired(services)
    again = joined(studio, files, spool=spool_in(tmp_path))
    assert services.jobs.get(job.id).state is State.QUEUED
    assert kept(tmp_path) == []
    [anew] = again.claim("")
    assert anew.attempt == job.attempt + 1


def test_what_a_stopped_worker_could_not_give_back_is_no_crash(
    services: Services, studio: Studio, files: Any, tmp_path: Path
) -> None:
    [job_id] = enqueue(services.jobs)
    dispatch = joined(studio, files, spool=spool_in(tmp_path))
    [job] = dispatch.claim("")
    studio.away = True
    with pytest.raises(StudioUnavailable):
        dispatch.give_back([job.claim])
    studio.away = False
    joined(studio, files, spool=spool_in(tmp_path))
    found = services.jobs.get(job_id)
    assert (found.state, found.crashes) == (State.QUEUED, 0)


def test_a_killed_worker_takes_its_slot_again_at_once(
    services: Services, studio: Studio, files: Any, tmp_path: Path
) -> None:
    [job_id] = enqueue(services.jobs)
    joined(studio, files, spool=spool_in(tmp_path)).claim("")
    joined(studio, files, spool=spool_in(tmp_path))
    found = services.jobs.get(job_id)
    assert (found.state, found.crashes) == (State.QUEUED, 1)
    with pytest.raises(HomeInUse):  # another machine of the same name has no such session
        joined(studio, files)


def test_a_full_spool_is_said_and_no_further_job_is_begun(
    services: Services, studio: Studio, files: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enqueue(services.jobs, 2)
    dispatch = joined(studio, files, spool=spool_in(tmp_path, most_bytes=10_000))
    [job] = dispatch.claim("")
    studio.away = True
    with pytest.raises(StudioUnavailable):
        dispatch.finish(job.claim, picture())
    assert "No more are made until the studio has received them" in caplog.text
    assert kept(tmp_path) == []
    (tmp_path / "spool/cpu0/x-1.picture").write_bytes(b"x" * 10_000)
    assert not dispatch.ready()
    studio.away = False
    worker = runner(dispatch, services)
    worker.run_due_jobs()
    worker.close()
    assert len(services.jobs.running("attic.cpu0")) == 1  # that before
    (tmp_path / "spool/cpu0/x-1.picture").unlink()
    assert dispatch.ready()


def test_its_problem_is_shown_with_the_machine(services: Services, studio: Studio, files: Any, tmp_path: Path) -> None:

    dispatch = joined(studio, files, spool=spool_in(tmp_path, most_bytes=0))
    dispatch.register(1, "cpu", DeviceMemory())
    dispatch.heartbeat(Condition(55, 0, str(dispatch.problem())))
    [machine] = services.studio.machines.all()
    assert "No more are made" in machine.slots[0].problem
    assert machine.slots[0].temperature == 55


def test_a_damaged_file_is_dropped(services: Services, studio: Studio, files: Any, tmp_path: Path) -> None:
    enqueue(services.jobs)
    finished_while_away(studio, files, tmp_path)
    [name] = kept(tmp_path)
    path = tmp_path / "spool/cpu0" / name
    path.write_bytes(path.read_bytes()[:-100])
    joined(studio, files, spool=spool_in(tmp_path))
    assert kept(tmp_path) == []


def test_two_workers_of_one_home_cannot_use_a_slot(tmp_path: Path) -> None:
    one, other = (Spool(tmp_path / "spool/cpu0", tmp_path / "cpu0.lock", 1) for _ in range(2))
    one.hold(0)
    with pytest.raises(HomeInUse, match="cpu0"):
        other.hold(0)


def test_the_worker_itself_hands_in_once_the_studio_is_back(
    services: Services, studio: Studio, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits with its picture on the disk, and begins no other."""
    monkeypatch.setattr("diffusion_local.worker.saving.TRY_SECONDS", 0.02)
    ids = enqueue(services.jobs, 2)
    dispatch = joined(studio, files, spool=spool_in(tmp_path))
    settle, cut = dispatch._settle, threading.Event()

    def finish(name: str, *args: Any) -> Any:
        studio.away = studio.away or not cut.is_set()
        cut.set()
        return settle(name, *args)

    monkeypatch.setattr(dispatch, "_settle", finish)
    stop = Stop()
    worker = runner(dispatch, services, stop=stop)
    working = threading.Thread(target=worker.serve)
    working.start()
    eventually(lambda: kept(tmp_path), 30)
    studio.away = False
    eventually(lambda: {services.jobs.get(each).state for each in ids} == {State.DONE}, 30)
    stop.request()
    working.join(30)
    worker.close()
    assert kept(tmp_path) == []


def test_a_lost_claim_leaves_no_file(services: Services, studio: Studio, files: Any, tmp_path: Path) -> None:
    enqueue(services.jobs)
    dispatch = joined(studio, files, spool=spool_in(tmp_path))
    [job] = dispatch.claim("")
    studio.away = True
    with pytest.raises(StudioUnavailable):
        dispatch.finish(job.claim, picture())
    studio.away = False
    expire(services)
    slots.recover_expired(services)
    with pytest.raises(LostClaim):
        dispatch.finish(job.claim, picture())
    assert kept(tmp_path) == []
