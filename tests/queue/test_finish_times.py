"""When jobs are done is arithmetic on learned durations; behind a job of unknown duration there is no estimate."""

from dataclasses import replace

import pytest

from diffusion_local.domain import Job, Lane, State
from diffusion_local.queue.estimates import FinishedPicture, Pace, Work
from diffusion_local.queue.finish_times import finish_times, seconds_left, total_seconds
from tests.support import params

ONE = params(width=1000, height=1000, steps=1)  # of cost 1
WORK = Work.of_params(ONE)


def job(name: str, step: int = 0, gate: int = 0, **changes: object) -> Job:
    requested = replace(ONE, **changes)  # type: ignore[arg-type]
    return Job(name, "batch", 0, requested, State.QUEUED, "2026-11-22T10:00:00.000Z", step=step, gate=gate)


def pace(seconds: float = 10.0, **loads: float) -> Pace:
    return Pace.learn(
        [FinishedPicture(WORK, seconds)]
        + [FinishedPicture(Work(name, "txt2img", 0, 1), 0, load) for name, load in loads.items()]
    )


def test_somebody_who_waits_gets_a_pass_alone() -> None:
    known = Pace.learn([FinishedPicture(WORK, 4, together=4), FinishedPicture(WORK, 10), FinishedPicture(WORK, 12)])
    waiting = job("a")
    assert seconds_left(waiting, known, "starter") == 11  # somebody waits for it
    assert seconds_left(replace(waiting, lane=Lane.BATCH), known, "starter") == 4


def test_what_one_worker_runs_ends_together() -> None:
    pass_of_two = [replace(job(name), worker="gpu0") for name in "ab"]
    times = finish_times([*pass_of_two, replace(job("c"), worker="gpu1")], [job("d")], pace(), 2, ["starter"] * 2)
    assert times == {"a": 20, "b": 20, "c": 10, "d": 20}


def test_a_running_job_needs_what_is_left_of_it() -> None:
    half = replace(job("a", 5), params=replace(ONE, steps=10))
    assert seconds_left(half, pace(2.0)) == pytest.approx(10)
    assert seconds_left(half, Pace()) is None
    assert seconds_left(replace(half, step=99), pace(2.0)) == 0


def test_a_model_that_is_not_in_memory_is_loaded_first() -> None:
    assert seconds_left(job("a"), pace(starter=5.0)) == 15
    assert seconds_left(job("a"), pace(starter=5.0), "starter") == 10


def test_jobs_are_dealt_to_the_worker_that_is_free_first() -> None:
    jobs = [job(name) for name in "abc"]
    assert finish_times([], jobs, pace(), 1) == {"a": 10, "b": 20, "c": 30}
    assert finish_times([], jobs, pace(), 2) == {"a": 10, "b": 10, "c": 20}
    assert finish_times([], jobs, pace(), 0) == finish_times([], jobs, pace(), 1)
    assert finish_times([], jobs, pace(starter=5.0), 1) == {"a": 15, "b": 25, "c": 35}
    assert finish_times([], jobs, pace(starter=5.0), 1, ["starter"]) == {"a": 10, "b": 20, "c": 30}


def test_what_waits_for_its_window_is_not_done_before() -> None:
    assert finish_times([], [job("a"), job("b", gate=3)], pace(), 1, opens={3: 100.0}) == {"a": 10, "b": 110}


def test_estimates_end_where_a_model_is_not_known() -> None:
    known, unknown, after = job("a"), job("b", model="new"), job("c")
    assert finish_times([], [known, unknown, after], pace(), 1) == {"a": 10}


def test_the_total_is_shared_by_the_workers_and_unknown_with_an_unknown_model() -> None:
    assert total_seconds([job("a")], {WORK: 3}, pace(), 2) == 20
    assert total_seconds([], {replace(WORK, model="new"): 1}, pace(), 1) is None
    assert total_seconds([job("a", model="new")], {}, pace(), 1) is None
    assert total_seconds([], {}, Pace(), 1) == 0
    assert total_seconds([], {WORK: 3}, pace(starter=5.0), 1) == 35
    assert total_seconds([], {WORK: 3}, pace(starter=5.0), 1, ["starter"]) == 30
