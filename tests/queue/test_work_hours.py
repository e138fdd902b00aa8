"""How the time of slots is accounted for, and the end of a list that is estimated from it."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from diffusion_local.compose import Services
from diffusion_local.db.database import Database
from diffusion_local.dispatch.slots import WORKER_LOST
from diffusion_local.domain import Job, Lane, utc_text
from diffusion_local.queue import history
from diffusion_local.queue import jobs as queue_jobs
from diffusion_local.queue import workers as queue_workers
from diffusion_local.queue.batches import FORECAST_PICTURES
from diffusion_local.queue.control import QueueControl
from diffusion_local.queue.estimates import FinishedPicture, JobTimings, Outlook, Pace, Work
from diffusion_local.queue.finish_times import total_seconds
from diffusion_local.queue.jobs import JobStore
from diffusion_local.queue.work_hours import LONGEST_LOSS, PRIOR, Overhead, overhead_of
from diffusion_local.queue.workers import WorkerStore
from scripts import bench_clock
from tests.support import claimed, enqueue, image_of, params

WORK = Work.of_params(params())


class Slot:
    """A worker on a clock that the test sets."""

    def __init__(self, database: Database, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self.store, self.workers = database, store, WorkerStore(database)
        self.now = datetime.fromisoformat("2100-01-04T22:00:00Z")  # later than any job is created
        for module in (queue_jobs, queue_workers):
            monkeypatch.setattr(module, "utc_now", lambda: utc_text(self.now))
        self.start()

    def start(self) -> None:
        self.workers.register("cpu0", 1, "CPU")
        self.workers.update("cpu0", "idle")
        self.workers.update("cpu0", "busy")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def make(self, seconds: float = 10.0, load: float = 0.0) -> Job:
        job = claimed(self.store)
        self.wait(seconds + load)
        return self.finish(job, seconds, load)

    def finish(self, job: Job, seconds: float, load: float = 0.0, together: int = 1) -> Job:
        self.store.finish(job.claim, image_of(job), JobTimings(seconds, load, together=together))
        return job

    def overhead(self) -> Overhead:
        with self.database.read() as db:
            return overhead_of(db)


@pytest.fixture
def slot(database: Database, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Slot:
    worker = Slot(database, store, monkeypatch)
    enqueue(store, 12, Lane.BATCH)
    return worker


def test_time_between_pictures_is_a_gap(slot: Slot) -> None:
    slot.make(load=5)
    for _ in range(3):
        slot.wait(2)
        slot.make()
    assert slot.overhead().gap == pytest.approx(6 / 4)
    assert slot.overhead().lost == 0


def test_pictures_of_one_pass_share_its_time(slot: Slot) -> None:
    for _ in range(2):
        crew = [claimed(slot.store) for _ in range(4)]
        slot.wait(4 * 3 + 1)
        for job in crew:
            slot.finish(job, 3, together=4)
    assert slot.overhead().gap == pytest.approx(2 / 8)


def test_a_killed_worker_costs_its_work_its_restart_and_its_load(slot: Slot) -> None:
    slot.make()
    claimed(slot.store)
    slot.wait(7)
    slot.workers.lost("cpu0")
    slot.store.recover("cpu0", WORKER_LOST)
    slot.wait(20)
    slot.start()
    slot.make(load=5)
    assert slot.overhead().lost == pytest.approx((7 + 20 + 5) / (20 + PRIOR / 2))
    assert slot.overhead().gap == 0


def test_a_picture_remade_alone_after_a_crash_counts_its_usual_share_as_work(slot: Slot) -> None:
    for _ in range(2):
        crew = [claimed(slot.store) for _ in range(2)]
        slot.wait(2 * 5)
        for job in crew:
            slot.finish(job, 5, together=2)
    claimed(slot.store)
    slot.workers.lost("cpu0")
    slot.store.recover("cpu0", WORKER_LOST)
    slot.wait(20)
    slot.start()
    slot.make(9, load=3)
    assert slot.overhead().lost == pytest.approx((20 + 3 + 4) / (25 + PRIOR / 2))
    with slot.database.read() as db:
        pace = history.pace_of(db, [WORK.model])
    assert pace.sizes[WORK] == 2
    assert [share.together for share in pace.shares[WORK]] == [2]


def test_a_slow_first_pass_counts_its_usual_share_as_work(slot: Slot) -> None:
    slot.make()
    slot.make()
    job = claimed(slot.store)
    slot.wait(26)
    slot.store.finish(job.claim, image_of(job), JobTimings(26, warm_up=True))
    job = claimed(slot.store)
    slot.wait(12)
    slot.store.finish(job.claim, image_of(job), JobTimings(12, warm_up=True))
    assert slot.overhead().lost == pytest.approx(16 / (20 + 10 + 12 + PRIOR))
    with slot.database.read() as db:
        pace = history.pace_of(db, [WORK.model])
    assert pace.seconds(WORK) == pytest.approx(32 / 3)


def test_an_interactive_job_and_a_rest_are_losses(slot: Slot) -> None:
    slot.make()
    job = claimed(slot.store)
    slot.wait(4)
    enqueue(slot.store)
    slot.make(3)
    slot.wait(6)
    slot.finish(job, 10)
    QueueControl(slot.database).set_rest("too hot")
    slot.workers.update("cpu0", "idle")
    slot.wait(100)
    QueueControl(slot.database).set_rest("")
    slot.make()
    assert slot.overhead().lost == pytest.approx((3 + 100) / (30 + PRIOR / 3))
    assert slot.overhead().gap == 0


def test_an_idle_worker_and_a_long_standstill_do_not_count(slot: Slot) -> None:
    slot.make()
    slot.workers.update("cpu0", "idle")
    slot.wait(500)
    slot.make()
    slot.wait(LONGEST_LOSS + 20)
    slot.make()
    assert slot.overhead() == Overhead()


def test_the_order_of_the_queue_says_which_pictures_share_a_pass_and_how_often_models_load() -> None:
    other = Work("other", "txt2img", WORK.pixels, WORK.steps)
    line = [(WORK, 1), (other, 1), (WORK, 1), (WORK, 2), (other, 1), (other, 1)]
    outlook = Outlook.of_line(line, "starter")
    assert outlook.runs == {WORK: [2, 1], other: [3]}
    assert outlook.loads == {"starter": pytest.approx(1 / 3), "other": pytest.approx(2 / 3)}


def test_passes_are_as_large_as_the_queue_allows() -> None:
    history = [FinishedPicture(WORK, 4, together=4)] * 8 + [FinishedPicture(WORK, 10)] * 8
    pace = Pace.learn(history)
    assert pace.queued_seconds(WORK) == 4
    pace.outlook = Outlook({WORK: [1, 1]})
    assert pace.queued_seconds(WORK) == 10
    pace.outlook = Outlook({WORK: [4, 8, 2]})  # the last two run alone or as a pair: no better is known than alone
    assert pace.queued_seconds(WORK) == pytest.approx((12 * 4 + 2 * 10) / 14)


def test_a_pass_size_that_a_kind_has_not_run_in_is_estimated_by_other_kinds() -> None:
    large, new = (Work(WORK.model, WORK.kind, WORK.pixels * times, WORK.steps) for times in (2, 4))
    measured = [FinishedPicture(WORK, 4, together=4)] * 24 + [FinishedPicture(WORK, 10)] * 8
    pace = Pace.learn([FinishedPicture(large, 20), *measured])
    pace.outlook = Outlook({large: [4], new: [4, 1]})
    assert pace.queued_seconds(large) == pytest.approx(8)
    assert pace.queued_seconds(new) == pytest.approx((4 * 16 + 40) / 5)
    pace.outlook = Outlook({large: [1]})
    assert pace.queued_seconds(large) == 20


def test_pictures_that_workers_crashed_with_count_only_without_others() -> None:
    crashed = FinishedPicture(WORK, 30, crashes=1)
    assert Pace.learn([crashed]).seconds(WORK) == 30
    pace = Pace.learn([crashed, FinishedPicture(WORK, 10)])
    assert pace.seconds(WORK) == 10


def test_slow_first_passes_count_only_if_nothing_else_is_known() -> None:
    warm_up = FinishedPicture(WORK, 30, together=2, warm_up=True)
    assert Pace.learn([warm_up]).seconds(WORK) == 30
    assert Pace.learn([warm_up, FinishedPicture(WORK, 10)]).seconds(WORK) == 10
    assert Pace.learn([replace(warm_up, seconds=8), FinishedPicture(WORK, 10)]).seconds(WORK) == 8


def test_gaps_losses_loads_and_drift_are_added() -> None:
    usual = [FinishedPicture(WORK, 10.0, 5.0)] * 40
    pace = Pace.learn(usual)
    pace.gap, pace.lost, pace.outlook = 1.0, 0.1, Outlook(loads={"starter": 0.2})
    assert total_seconds([], {WORK: 10}, pace, 1, ["starter"]) == pytest.approx((10 * 11 + 2 * 5) * 1.1)
    kinds = [Work("starter", "txt2img", WORK.pixels, steps) for steps in range(1, 13)]
    slower = [FinishedPicture(kind, 15.0) for kind in kinds] + [FinishedPicture(kind, 10.0) for kind in kinds * 19]
    assert Pace.learn(slower).queued_seconds(kinds[0]) == pytest.approx(15, rel=0.25)


def test_the_end_is_noted_once_for_the_report(services: Services) -> None:
    store = services.jobs
    enqueue(store, 2 * FORECAST_PICTURES, Lane.BATCH)
    for _ in range(FORECAST_PICTURES - 1):
        job = claimed(store)
        store.finish(job.claim, image_of(job), JobTimings(1.0))
    services.batches.note_forecast(job.batch_id)
    assert services.studio.reports.batch(job.batch_id).forecast is None
    for place in range(FORECAST_PICTURES + 1):
        job = claimed(store)
        store.finish(job.claim, image_of(job), JobTimings(1.0))
        services.batches.note_forecast(job.batch_id)
        assert (services.studio.reports.batch(job.batch_id).forecast is not None) == (place == FORECAST_PICTURES)
    result = services.studio.reports.batch(job.batch_id).forecast
    assert result is not None
    assert result.pictures == FORECAST_PICTURES
    assert result.told_seconds == pytest.approx(FORECAST_PICTURES, rel=0.01)
    assert "Estimated end" in services.studio.reports.written("md", job.batch_id)


PATTERN = bench_clock.Pattern(
    models=("starter", "second"),
    sizes=((1024, 768),),
    steps=(30,),
    alike=4,
    kills_every=170.0,
    people_every=230.0,
    rests_every=310.0,
    rest=40.0,
    regular=True,
)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """Two small nights with kills, interactive jobs, rests and two models, on a simulated clock."""
    home: Path = tmp_path_factory.mktemp("nights")
    return bench_clock.nights(PATTERN, home, 2, 160, seed=3)


def test_the_told_end_of_a_night_with_kills_is_near_the_real_one(nights: list[dict[str, float]]) -> None:
    assert all(night["kills"] >= 3 and night["people"] >= 2 and night["rests"] >= 2 for night in nights)
    assert nights[1]["error"] < 0.15


@pytest.mark.slow  # shows that the test above would find it
def test_without_what_was_learned_of_losses_the_told_end_is_far_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "overhead_of", lambda db: Overhead())
    assert bench_clock.nights(PATTERN, tmp_path, 2, 160, seed=3)[1]["error"] > 0.2
