"""One job's road through a worker, in this process, with the engine that needs no model: every outcome."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image as PIL

from diffusion_local import serializers
from diffusion_local.compose import Services
from diffusion_local.db import sqlite_connections
from diffusion_local.domain import DeviceMemory, Job, Params, State, utc_text
from diffusion_local.engine import Pass, Picture, Preview
from diffusion_local.engine.fake import FakeEngine, TransientFault, draw_card
from diffusion_local.errors import BadImage
from diffusion_local.gallery import recipes
from diffusion_local.messages import verbatim
from diffusion_local.notify.dispatcher import report_data
from diffusion_local.reports.wording import facts
from diffusion_local.worker import runner as runner_module
from diffusion_local.worker.runner import MAX_TRIES, Runner
from diffusion_local.worker.stopping import Stop
from tests.support import FAILURE, eventually, sql
from tests.workers import open_runner

pytestmark = pytest.mark.usefixtures("connection")


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def runner(services: Services, stop: Stop) -> Iterator[Runner]:
    opened = open_runner(services, "cpu0", FakeEngine(0), stop)
    yield opened
    opened.close()


class Scripted(FakeEngine):
    """Does something of the test's own before the picture is made."""

    def __init__(self, script: Callable[[Params], object]) -> None:
        super().__init__(0)
        self.script = script

    def run(self, crew: Pass) -> None:
        self.script(crew.parts[0].params)
        super().run(crew)


def submit(services: Services, prompt: str = "a red apple", count: int = 1, **settings: object) -> list[str]:
    sizes = {"width": 128, "height": 128, "steps": 4, "seed": 7}
    return services.studio.submit(prompt, count=count, **sizes | settings).job_ids  # type: ignore[arg-type]


def work_off(runner: Runner, services: Services, job_id: str) -> Job:
    runner.run_due_jobs()
    return services.jobs.get(job_id)


def pictures(services: Services) -> list[str]:
    return sorted(path.stem for path in services.settings.gallery_folder.rglob("*.png"))


def test_the_hash_of_a_model_is_known_from_its_first_picture_on(services: Services, stop: Stop) -> None:
    engine = FakeEngine(0)
    engine.room = DeviceMemory("cpu")  # type: ignore[misc]
    runner = open_runner(services, "cpu0", engine, stop)
    try:
        [job_id] = submit(services)
        work_off(runner, services, job_id)
    finally:
        runner.close()
    digest = services.studio.library.model("starter").sha256
    assert len(digest) == 64
    image = services.images.of_jobs([job_id])[job_id]
    assert image.facts["model_hash"] == digest[:10]
    with PIL.open(services.files.picture(image.key).local_path) as stored:
        assert f"Model hash: {digest[:10]}, Model: starter" in stored.info["parameters"]


def test_a_job_becomes_a_picture_with_its_recipe(services: Services, runner: Runner) -> None:
    [job_id] = submit(services, "a red apple", negative="blurry")
    job = work_off(runner, services, job_id)
    assert (job.state, job.step, job.attempt, job.failure) == (State.DONE, 4, 1, None)
    image = services.images.of_jobs([job_id])[job_id]
    assert pictures(services) == [job_id]
    assert image.bytes == services.files.picture(image.key).local_path.stat().st_size
    with PIL.open(services.files.picture(image.key).local_path) as stored:
        assert stored.tobytes() == draw_card(job.params).tobytes()
        assert stored.info["parameters"].startswith("a red apple\nNegative prompt: blurry\nSteps: 4")
        found = recipes.read_json(stored)
    assert found is not None
    assert found["facts"]["engine"] == "fake"
    assert services.files.thumbnail(image.key).exists()
    assert not Path(image.key).is_absolute()


def test_a_whole_queue_is_worked_off_in_order(services: Services, runner: Runner) -> None:
    ids = submit(services, count=5)
    runner.run_due_jobs()
    jobs = [services.jobs.get(job_id) for job_id in ids]
    assert {job.state for job in jobs} == {State.DONE}
    assert [job.started_at for job in jobs] == sorted(job.started_at or "" for job in jobs)
    assert pictures(services) == sorted(ids)


@pytest.mark.parametrize(("prompt", "kind"), [("[fail]", "engine_error"), ("[oom]", "out_of_memory")])
def test_an_engine_error_fails_its_job_and_the_next_one_runs(
    services: Services, runner: Runner, prompt: str, kind: str
) -> None:
    [bad], [good] = submit(services, prompt), submit(services)
    job = work_off(runner, services, bad)
    assert job.failure is not None
    assert (job.state, job.failure.kind) == (State.FAILED, kind)
    assert job.failure.message
    assert "Traceback" in job.failure.detail
    assert services.jobs.get(good).state is State.DONE
    assert pictures(services) == [good]


def test_a_model_that_went_away_fails_its_job_with_what_to_do(services: Services, runner: Runner) -> None:
    folder = services.settings.models / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    [gone], [good] = submit(services, model="mine"), submit(services)
    shutil.rmtree(folder)
    job = work_off(runner, services, gone)
    assert job.failure is not None
    assert job.failure.kind == "model_unavailable"
    assert "models/" in job.failure.message
    assert services.jobs.get(good).state is State.DONE


def test_a_model_without_weights_fails_its_job_with_what_to_do(services: Services, runner: Runner) -> None:
    folder = services.settings.models / "mine"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "weights.safetensors").write_bytes(b"weights")
    [job_id] = submit(services, model="mine")
    (folder / "weights.safetensors").unlink()
    job = work_off(runner, services, job_id)
    assert job.failure is not None
    assert (job.failure.kind, "safetensors" in job.failure.message) == ("model_unavailable", True)


def test_a_fault_of_the_program_fails_the_job_and_says_so(services: Services, stop: Stop) -> None:
    def bug(params: Params) -> None:
        raise KeyError("left")

    runner = open_runner(services, "cpu0", Scripted(bug), stop)
    [job_id] = submit(services)
    job = work_off(runner, services, job_id)
    assert job.failure is not None
    assert (job.failure.kind, "program error" in job.failure.message) == ("internal_error", True)
    assert "KeyError" in job.failure.detail
    runner.close()


# -- later tries -----------------------------------------------------------------------------------------------------


def test_a_transient_fault_is_tried_later_and_then_works(services: Services, runner: Runner) -> None:
    [flaky], [good] = submit(services, "[flaky]"), submit(services)
    before = datetime.now(UTC)
    job = work_off(runner, services, flaky)
    assert (job.state, job.tries, job.crashes) == (State.QUEUED, 1, 0)
    assert utc_text(before + timedelta(seconds=5)) < (job.not_before or "") < utc_text(before + timedelta(seconds=30))
    assert services.jobs.get(good).state is State.DONE  # nobody waits for it
    now_due(services)
    assert work_off(runner, services, flaky).state is State.DONE
    assert services.jobs.get(flaky).attempt == 2


def test_tries_come_to_an_end(services: Services, stop: Stop) -> None:
    def hiccup(params: Params) -> None:
        raise TransientFault(verbatim("not now"))

    runner = open_runner(services, "cpu0", Scripted(hiccup), stop)
    [job_id] = submit(services)
    waits = []
    for tries in range(1, MAX_TRIES):
        job = work_off(runner, services, job_id)
        assert (job.state, job.tries) == (State.QUEUED, tries)
        waits.append(datetime.fromisoformat(job.not_before or "") - datetime.now(UTC))
        now_due(services)
    assert waits == sorted(waits)
    assert waits[-1] > 1.5 * waits[0]  # each pause is longer
    job = work_off(runner, services, job_id)
    assert job.failure is not None
    assert (job.state, job.failure.message) == (State.FAILED, "not now")
    runner.close()


def now_due(services: Services) -> None:
    with sql(services.settings) as db:
        db.execute("UPDATE jobs SET not_before = '2000-01-01T00:00:00.000Z' WHERE not_before IS NOT NULL")


# -- stopping --------------------------------------------------------------------------------------------------------


def test_a_cancel_is_heard_at_the_next_step(services: Services, stop: Stop) -> None:
    runner = open_runner(services, "cpu0", Scripted(lambda params: services.studio.queue.cancel([job_id])), stop)
    [job_id] = submit(services)
    job = work_off(runner, services, job_id)
    assert (job.state, job.step) == (State.CANCELLED, 0)
    runner.close()
    assert pictures(services) == []


def test_a_stop_gives_the_job_back_and_claims_no_other(services: Services, stop: Stop) -> None:
    runner = open_runner(services, "cpu0", Scripted(lambda params: stop.request()), stop)
    ids = submit(services, count=2)
    runner.run_due_jobs()
    jobs = [services.jobs.get(job_id) for job_id in ids]
    assert [(job.state, job.attempt, job.crashes, job.tries) for job in jobs] == [
        (State.QUEUED, 1, 0, 0),
        (State.QUEUED, 0, 0, 0),
    ]
    assert services.studio.events(ids[0])[-1].note == "returned to the queue: shutdown"
    runner.close()


def test_a_stop_may_let_the_picture_finish(services: Services) -> None:
    stop = Stop(finish_first=True)
    runner = open_runner(services, "cpu0", Scripted(lambda params: stop.request()), stop)
    ids = submit(services, count=2)
    runner.run_due_jobs()
    assert [services.jobs.get(job_id).state for job_id in ids] == [State.DONE, State.QUEUED]
    runner.close()


def test_a_pause_may_take_the_running_picture_back(services: Services, stop: Stop) -> None:
    runner = open_runner(services, "cpu0", Scripted(lambda params: services.control.pause(give_back=True)), stop)
    [job_id] = submit(services)
    assert work_off(runner, services, job_id).state is State.QUEUED
    services.control.resume()
    runner.close()
    runner = open_runner(services, "cpu0", FakeEngine(0), stop)
    assert work_off(runner, services, job_id).state is State.DONE
    runner.close()


# -- claims ----------------------------------------------------------------------------------------------------------


def test_a_lost_claim_writes_nothing(services: Services, stop: Stop) -> None:
    """Another worker was told to recover this one's job while it still denoised."""

    def lose(params: Params) -> None:
        services.jobs.recover("cpu0", FAILURE)
        services.control.pause()

    runner = open_runner(services, "cpu0", Scripted(lose), stop)
    [job_id] = submit(services)
    job = work_off(runner, services, job_id)
    runner.close()
    assert (job.state, job.crashes) == (State.QUEUED, 1)
    assert pictures(services) == []


def test_a_claim_lost_after_the_last_step_saves_nothing(services: Services, stop: Stop) -> None:
    class LosesAtTheEnd(FakeEngine):
        def run(self, crew: Pass) -> None:
            super().run(crew)
            services.control.pause()  # first, so that the job is not claimed ahead in between
            services.jobs.recover("cpu0", FAILURE)

    runner = open_runner(services, "cpu0", LosesAtTheEnd(0), stop)
    [job_id] = submit(services)
    job = work_off(runner, services, job_id)
    runner.close()
    assert (job.state, job.crashes) == (State.QUEUED, 1)
    assert pictures(services) == []


def test_no_usable_picture_fails_the_job_and_leaves_no_file(services: Services, stop: Stop) -> None:
    def bad(params: Params) -> None:
        raise BadImage

    runner = open_runner(services, "cpu0", Scripted(bad), stop)
    [job_id] = submit(services)
    job = work_off(runner, services, job_id)
    runner.close()
    assert job.failure is not None
    assert job.failure.kind == "bad_image"
    assert pictures(services) == []


# -- the disk and the database ---------------------------------------------------------------------------------------


def test_with_too_little_room_the_queue_holds_itself_back_and_goes_on_by_itself(services: Services, stop: Stop) -> None:
    small = replace(services, settings=replace(services.settings, disk_reserve_mb=10**9))
    [job_id] = submit(services)
    runner = open_runner(small, "cpu0", FakeEngine(0), stop)
    assert work_off(runner, services, job_id).state is State.QUEUED
    runner.close()
    assert "nearly full" in services.control.blocked_reason()
    assert "Free some space" in services.studio.snapshot().reason
    runner = open_runner(services, "cpu0", FakeEngine(0), stop)  # there is room again
    assert work_off(runner, services, job_id).state is State.DONE
    runner.close()
    assert services.control.blocked_reason() == ""


@pytest.mark.sqlite
def test_a_database_that_is_locked_for_a_while_loses_nothing(
    settings: object, services: Services, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one picture is saved the next is made; both must end, whichever of them meets the lock."""
    monkeypatch.setattr(sqlite_connections, "BUSY_SECONDS", 0.2)  # for the connections that are made from now on
    services.database.close()
    first, second = submit(services, count=2, steps=2)
    locked = threading.Event()

    def lock(params: Params) -> None:
        if params.seed == 8 and not locked.is_set():  # the first one is being saved now
            locked.set()
            holder = sqlite3.connect(services.settings.database_file, isolation_level=None, check_same_thread=False)
            holder.execute("BEGIN IMMEDIATE")
            threading.Timer(1.0, lambda: (holder.execute("COMMIT"), holder.close())).start()
            eventually(lambda: runner._saver._saving and runner._saver._saving[0].done())
            eventually(lambda: not holding(services))

    runner = open_runner(services, "cpu0", Scripted(lock), stop)
    for _ in range(20):
        runner.run_due_jobs()
        if all(services.jobs.get(job_id).final for job_id in (first, second)):
            break
    runner.close()
    assert [services.jobs.get(job_id).state for job_id in (first, second)] == [State.DONE, State.DONE]
    assert pictures(services) == sorted([first, second])


def holding(services: Services) -> bool:
    with sql(services.settings) as db:
        db.execute("PRAGMA busy_timeout = 0")
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


def test_an_idle_worker_lets_go_of_the_model(services: Services, stop: Stop) -> None:
    engine = FakeEngine(0)
    runner = open_runner(replace(services, settings=replace(services.settings, idle_unload=0)), "cpu0", engine, stop)
    [job_id] = submit(services)
    work_off(runner, services, job_id)
    assert engine.loaded == "starter"
    runner.run_due_jobs()
    assert engine.loaded == ""
    runner.close()


@pytest.mark.parametrize(("every", "drawn"), [(1, 4), (3, 1), (0, 0)])
def test_previews_are_drawn_every_so_many_steps(
    services: Services, stop: Stop, monkeypatch: pytest.MonkeyPatch, every: int, drawn: int
) -> None:
    monkeypatch.setattr("diffusion_local.worker.reporting.PREVIEW_SECONDS", 0.0)
    runner = open_runner(
        replace(services, settings=replace(services.settings, preview_every=every)), "cpu0", FakeEngine(0), stop
    )
    asked: list[Preview] = []
    monkeypatch.setattr(runner._reporter, "draw_preview", lambda job, preview: asked.append(preview))
    submit(services)
    runner.run_due_jobs()
    runner.close()
    assert len(asked) == drawn


class OneColour(FakeEngine):
    """Makes pictures of one colour."""

    def __init__(self, colour: str) -> None:
        super().__init__(0)
        self.colour = colour

    def run(self, crew: Pass) -> None:
        super().run(crew)
        for part in crew.parts:
            made = part.result()
            part.made = Picture(PIL.new("RGB", made.image.size, self.colour), made.facts)


def test_a_black_picture_is_kept_and_flagged_unless_it_was_asked_for(services: Services, stop: Stop) -> None:
    runner = open_runner(services, "cpu0", OneColour("black"), stop)
    try:
        [flagged], [asked] = submit(services, "a red apple"), submit(services, "a pure black image")
        runner.run_due_jobs()
    finally:
        runner.close()
    assert {services.jobs.get(each).state for each in (flagged, asked)} == {State.DONE}
    images = services.images.of_jobs([flagged, asked])
    assert (images[flagged].flag, images[asked].flag) == ("black", "")
    assert [each.id for each in services.studio.gallery(flagged=True)] == [images[flagged].id]
    job = serializers.one_job(services.studio, flagged)
    assert job["image"]["flag"] == "black"
    report = services.studio.reports.batch(job["batch_id"])
    assert (report.flagged, report.counts["done"]) == ({"black": 1}, 1)
    assert ("To look at", "1 (Black 1)") in facts(report)
    assert report_data(report)["flagged"] == 1
    with services.files.picture(images[flagged].key).open() as file, PIL.open(file) as stored:
        found = recipes.read_json(stored)
    assert found is not None
    assert found["facts"]["flag"] == "black"


# -- waiting for work ------------------------------------------------------------------------------------------------


def test_a_worker_looks_at_each_ring_and_by_itself_until_it_is_stopped(
    services: Services, runner: Runner, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(runner, "run_due_jobs", lambda: looks.append(1))
    monkeypatch.setattr(runner_module, "IDLE_POLL_SECONDS", 3600.0)
    thread = threading.Thread(target=runner.serve)
    thread.start()
    try:
        eventually(lambda: len(looks) == 1)
        services.queue.ring()
        eventually(lambda: len(looks) == 2)
        monkeypatch.setattr(runner_module, "IDLE_POLL_SECONDS", 0.01)
        services.queue.ring()  # the look that this one causes is the last whose successor is an hour away
        eventually(lambda: len(looks) > 5)
    finally:
        stop.request()
        thread.join(10)
    assert not thread.is_alive()


def test_a_fault_of_what_a_worker_does_is_not_hidden(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "run_due_jobs", broken)
    with pytest.raises(ZeroDivisionError):
        runner.serve()
