"""Estimates are arithmetic on this machine's own history; where it knows nothing there is no guess."""

import random
from dataclasses import replace
from statistics import median

import pytest

from diffusion_local.queue.estimates import FinishedPicture, Outlook, Pace, Share, Work
from tests.support import params

ONE = params(width=1000, height=1000, steps=1)  # of cost 1
WORK = Work.of_params(ONE)


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


def test_a_second_pass_counts_by_its_size_and_its_steps() -> None:
    once = replace(ONE, width=512, height=512, steps=20)
    twice = replace(once, hires_scale=2.0, hires_steps=10)
    assert Work.of_params(twice).cost == pytest.approx(20 * 0.262144 + 10 * 1.048576)
    pace = Pace.learn([FinishedPicture(Work.of_params(once), 2.0)])
    assert pace.seconds(Work.of_params(twice)) == pytest.approx(6.0, rel=0.01)


def test_workers_that_try_larger_passes_are_expected_to_reach_the_best_size() -> None:
    seconds = {1: 0.5 + 0.5, 2: 0.5 + 0.5 / 2}  # half of it is for each pass, whatever its size
    history = [FinishedPicture(WORK, each, together=size) for size, each in seconds.items() for _ in range(size)]
    pace = Pace.learn(history)
    pace.outlook = Outlook({WORK: [16]})
    assert pace.queued_seconds(WORK) == pytest.approx(0.75)
    pace.explores = True
    work = replace(WORK, steps=20)
    long = Pace.learn([replace(made, work=work) for made in history])
    long.outlook, long.explores = Outlook({work: [16]}), True
    assert long.queued_seconds(work) == pytest.approx(0.5 + 0.5 / 16)
    long.outlook = Outlook({work: [4]})
    assert long.queued_seconds(work) == pytest.approx(0.5 + 0.5 / 4)
    assert pace.queued_seconds(WORK) == pytest.approx(0.75)  # a larger pass would take too long for a step
