"""Estimates are arithmetic on this machine's own history; where it knows nothing there is no guess."""

import random
from dataclasses import replace
from statistics import median

import pytest

from diffusion_local.domain import Job, Lane, State
from diffusion_local.queue.estimates import (
    FinishedPicture,
    Pace,
    Share,
    Work,
    finish_times,
    seconds_left,
    total_seconds,
)
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


def test_a_kind_of_picture_takes_the_median_of_what_it_took() -> None:
    known = Pace.learn([FinishedPicture(WORK, seconds) for seconds in (10, 11, 900, 9, 10)])
    assert known.seconds(WORK) == 10  # one slow picture does not count
    assert Pace.learn([]).seconds(WORK) is None
    assert Pace.learn([FinishedPicture(WORK, 10)]).seconds(replace(WORK, model="new")) is None


def test_another_rung_or_forward_passes_of_another_size_begin_anew() -> None:
    before = [FinishedPicture(WORK, 10)] * 20
    assert Pace.learn([FinishedPicture(WORK, 30, rung="sequential"), *before]).seconds(WORK) == 30
    assert Pace.learn([FinishedPicture(WORK, 4, together=4), *before]).seconds(WORK) == 4
    assert (
        Pace.learn([FinishedPicture(WORK, 9), *[FinishedPicture(WORK, 4, together=4)] * 4, *before]).seconds(WORK) == 4
    )  # the last of a list


def test_a_picture_in_a_pass_takes_what_its_size_takes() -> None:
    known = Pace.learn([FinishedPicture(WORK, 4, together=4), FinishedPicture(WORK, 10), FinishedPicture(WORK, 12)])
    assert [known.seconds(WORK, size) for size in (1, 4, 8)] == [11, 4, 4]
    assert known.shares[WORK] == [Share(1, 11, 2), Share(4, 4, 1)]
    waiting = job("a")
    assert seconds_left(waiting, known, "starter") == 11  # somebody waits for it
    assert seconds_left(replace(waiting, lane=Lane.BATCH), known, "starter") == 4


def test_what_one_worker_runs_ends_together() -> None:
    pass_of_two = [replace(job(name), worker="gpu0") for name in "ab"]
    times = finish_times([*pass_of_two, replace(job("c"), worker="gpu1")], [job("d")], pace(), 2, ["starter"] * 2)
    assert times == {"a": 20, "b": 20, "c": 10, "d": 20}


def test_another_size_is_told_by_a_line_through_those_that_were_made() -> None:
    one_size = Pace.learn([FinishedPicture(WORK, 10)])
    assert one_size.seconds(replace(WORK, steps=3)) == 30  # in proportion
    made = [FinishedPicture(replace(WORK, steps=steps), 5 + 2 * steps) for steps in (1, 10, 20)]
    assert Pace.learn(made).seconds(replace(WORK, steps=30)) == pytest.approx(65)
    assert Pace.learn(made).seconds(replace(WORK, steps=5, kind="img2img")) == pytest.approx(
        15
    )  # of the model's others


def test_a_line_is_never_below_nothing() -> None:
    falling = Pace.learn([FinishedPicture(replace(WORK, steps=1), 10), FinishedPicture(replace(WORK, steps=10), 5)])
    assert falling.seconds(replace(WORK, steps=100)) > 0  # type: ignore[operator]
    steep = Pace.learn([FinishedPicture(replace(WORK, steps=2), 1), FinishedPicture(replace(WORK, steps=4), 10)])
    assert steep.seconds(replace(WORK, steps=1)) > 0  # type: ignore[operator]


def test_a_synthetic_machine_is_learned_to_a_few_per_cent() -> None:
    lot = random.Random(7)

    def took(work: Work) -> float:
        overhead, slope = {"a": (0.5, 1.5), "b": (2.0, 4.0)}[work.model]
        return (overhead + slope * work.cost) * lot.uniform(0.95, 1.05) * (3 if lot.random() < 0.02 else 1)

    works = [
        Work(lot.choice("ab"), "txt2img", side * side, steps) for side in (256, 512, 768) for steps in (10, 20, 30)
    ]
    history: list[FinishedPicture] = []
    errors = []
    for _ in range(400):
        work = lot.choice(works)
        seconds = took(work)
        guess = Pace.learn(history[:200]).seconds(work)
        if guess is not None:
            errors.append(abs(guess - seconds) / seconds)
        history.insert(0, FinishedPicture(work, seconds))
    assert len(errors) > 390
    assert median(errors) < 0.05


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


def test_a_second_pass_counts_by_its_size_and_its_steps() -> None:
    once = replace(ONE, width=512, height=512, steps=20)
    twice = replace(once, hires_scale=2.0, hires_steps=10)
    assert Work.of_params(twice).cost == pytest.approx(20 * 0.262144 + 10 * 1.048576)
    pace = Pace.learn([FinishedPicture(Work.of_params(once), 2.0)])
    assert pace.seconds(Work.of_params(twice)) == pytest.approx(6.0, rel=0.01)
