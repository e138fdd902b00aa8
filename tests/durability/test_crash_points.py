"""A worker that dies at each point between claim and finish: its job is made once, whatever was there by then.

The child wraps the product's own methods from outside; the product has no hooks for this.
"""

import signal

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.gallery.sweep import sweep
from tests.durability.conftest import WORKER, Start, assert_sound, ended, states, submit
from tests.support import eventually

DIE = """
import os, signal
from pathlib import Path
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def wrap(owner, name, before=lambda *a: False, after=lambda *a: False):
    inner = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if before(*args):
            die()
        result = inner(*args, **kwargs)
        if after(*args):
            die()
        return result
    setattr(owner, name, wrapped)
always = lambda *args: True
is_png = lambda part, target: str(target).endswith(".png")
is_webp = lambda part, target: str(target).endswith(".webp") and "gallery" in str(target)
from diffusion_local.engine import fake
from diffusion_local.gallery import files
from diffusion_local.queue import jobs
from diffusion_local.db import rows
"""
#: point: (how the child dies there, state that its job is left in, PNG files there by then)
POINTS = {
    "before the claim is committed": ("wrap(jobs.rows, 'to_job', before=always)", State.QUEUED, 0),
    "after the claim": ("wrap(jobs.JobStore, 'claim', after=always)", State.RUNNING, 0),
    "mid-denoise": ("wrap(jobs.JobStore, 'flags_of', before=always)", State.RUNNING, 0),
    "after the thumbnail": ("wrap(Path, 'replace', after=is_webp)", State.RUNNING, 0),
    "after the bytes, before the rename": ("wrap(Path, 'replace', before=is_png)", State.RUNNING, 0),
    "after the rename, before the row": ("wrap(files.ImageFiles, 'save_encoded', after=always)", State.RUNNING, 1),
    "before the commit": ("wrap(rows, 'image_row', after=always)", State.RUNNING, 1),
    "after the commit": ("wrap(jobs.JobStore, 'finish', after=always)", State.DONE, 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_leaves_its_job_to_the_next(services: Services, start: Start, point: str) -> None:
    code, left, files = POINTS[point]
    [job_id] = submit(services)
    assert start(DIE, code, WORKER).wait(60) == -signal.SIGKILL
    assert services.jobs.get(job_id).state is left
    assert len(list(services.settings.gallery_folder.rglob("*.png"))) == files
    assert len(services.studio.gallery()) == (left is State.DONE)

    start(WORKER)
    [job] = ended(services, job_id)
    again = left is State.RUNNING
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 1 + again, int(again))
    assert states(services, job_id) == ["queued", *["running", "queued"] * again, "running", "done"]
    eventually(lambda: not any(worker.status == "busy" for worker in services.workers.list_all()))
    assert assert_sound(services)["images"] == 1


def test_half_written_files_stay_an_hour_and_are_swept_then(services: Services, start: Start) -> None:
    submit(services)
    start(DIE, POINTS["after the bytes, before the rename"][0], WORKER).wait(60)
    [part] = services.settings.gallery_folder.rglob(".*.part")
    sweep(services.files, services.database)
    assert part.exists()  # it might be another worker's, at work on it
    [job] = services.studio.jobs()
    start(WORKER)
    ended(services, job.id)
    assert assert_sound(services)["parts_dropped"] == 1
    assert not part.exists()


def test_a_job_cancelled_after_its_worker_died_leaves_its_picture_aside_and_nothing_in_the_gallery(
    services: Services, start: Start
) -> None:
    [job_id] = submit(services)
    start(DIE, POINTS["after the rename, before the row"][0], WORKER).wait(60)
    services.studio.queue.cancel([job_id])
    start(WORKER)
    [job] = ended(services, job_id)
    assert job.state is State.CANCELLED
    assert [event.note for event in services.view.events(job_id)] == ["", "", "worker lost"]
    assert assert_sound(services)["strays_moved_aside"] == 1
    assert [path.stem for path in services.settings.strays.rglob("*.png")] == [job_id]
    assert services.studio.gallery() == []


def test_a_second_death_at_the_same_job_fails_it_with_a_name_and_the_rest_runs(
    services: Services, start: Start
) -> None:
    first, second = submit(services, count=2)
    for _ in range(2):
        start(DIE, POINTS["mid-denoise"][0], WORKER).wait(60)
    start(WORKER)
    poisoned, fine = ended(services, first, second)
    assert (poisoned.state, poisoned.crashes, poisoned.attempt) == (State.FAILED, 2, 2)
    assert poisoned.failure is not None
    assert poisoned.failure.kind == "worker_lost"
    assert fine.state is State.DONE
    assert_sound(services)


def test_a_job_cancelled_long_after_its_worker_was_lost_does_not_say_so_again(services: Services, start: Start) -> None:
    [job_id] = submit(services)
    start(DIE, POINTS["mid-denoise"][0], WORKER).wait(60)
    slots.recover_if_free(services, "cpu0")
    services.studio.queue.cancel([job_id])
    history = [(event.state, event.note) for event in services.view.events(job_id)]
    assert history == [("queued", ""), ("running", ""), ("queued", "worker lost"), ("cancelled", "")]
