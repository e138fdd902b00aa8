"""A worker dies at each named point between claim and done: the job still ends once, with one picture.

The child dies by itself in the middle of the real code, by a function that is replaced in that child only.
"""

import os
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.dispatch import slots
from diffusion_local.domain import State
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.gallery.sweep import sweep
from diffusion_local.worker.stopping import Stop
from tests.forking import fork
from tests.support import sql
from tests.workers import open_runner

DIE_AT = """
import os, sys
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_services
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.settings import Settings
from diffusion_local.gallery import files
from diffusion_local.queue import jobs
from diffusion_local import disk
from diffusion_local.gallery import local_blobs
from diffusion_local.db import rows
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner

def die(*args, **kwargs):
    os._exit(9)

def after(function):
    def both(*args, **kwargs):
        function(*args, **kwargs)
        die()
    return both

def half(file):
    file.write(b"half of a picture")
    file.flush()
    die()

write_atomically = local_blobs.write_atomically
match sys.argv[1]:
    case "after the claim":
        Runner.run = die
    case "while denoising":
        FakeEngine.run = lambda self, crew: (crew.parts[0].on_step(1, None), die())
    case "before the bytes":
        files.ImageFiles.save_encoded = die
    case "in the middle of the bytes":
        local_blobs.write_atomically = lambda target, write, durable=False, **more: write_atomically(
            target, half if durable else write, durable, **more
        )
    case "after the bytes":
        os.fsync = die
    case "after the rename":
        disk.sync_folder = die
    case "before the rows":
        jobs.JobStore.finish = die
    case "between the rows":
        rows.image_row = die
    case "after the commit":
        jobs.JobStore.finish = after(jobs.JobStore.finish)
run_as(LOCAL)
services = open_services(Settings.load())
open_runner(services, "cpu0", FakeEngine(0), Stop()).run_due_jobs()
services.database.close()
os._exit(0)
"""

#: point -> the job's state as the dead worker leaves it
POINTS = {
    "after the claim": State.RUNNING,
    "while denoising": State.RUNNING,
    "before the bytes": State.RUNNING,
    "in the middle of the bytes": State.RUNNING,
    "after the bytes": State.RUNNING,
    "after the rename": State.RUNNING,
    "before the rows": State.RUNNING,
    "between the rows": State.RUNNING,
    "after the commit": State.DONE,
}


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_may_die_anywhere(services: Services, tmp_path: Path, point: str) -> None:
    [job_id] = services.studio.submit("a red apple", width=128, height=128, steps=2).job_ids
    child = fork("worker", DIE_AT, point, env=dict(os.environ), log=tmp_path / "child.log")
    assert child.wait(60) == 9, child.log_path.read_text()
    left = services.jobs.get(job_id)
    assert left.state is POINTS[point]
    assert rows_without_a_file(services) == []

    slots.recover(services, "cpu0")
    assert sweep(services.files, services.database).strays == []  # its file, if there is one, is about to be made again
    runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
    runner.run_due_jobs()
    runner.close()
    job = services.jobs.get(job_id)
    again = left.state is State.RUNNING
    assert (job.state, job.attempt, job.crashes) == (State.DONE, 2 if again else 1, int(again))
    assert rows_without_a_file(services) == []
    assert [path.stem for path in services.settings.gallery_folder.rglob("*.png")] == [job_id]
    assert [image.id for image in services.studio.gallery()] == [job_id]
    swept = sweep(services.files, services.database)
    assert (swept.strays, swept.missing) == ([], [])


def rows_without_a_file(services: Services) -> list[str]:
    with sql(services.settings) as db:
        keys = [row["key"] for row in db.execute("SELECT key FROM images")]
    return [key for key in keys if not services.files.picture(key).local_path.exists()]
