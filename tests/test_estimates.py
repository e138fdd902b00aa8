"""Estimates are arithmetic on this machine's own history; where it knows nothing there is no guess."""

from dataclasses import replace

import pytest

from diffusion_local.domain import Job, State
from diffusion_local.estimates import finish_times, pace, seconds_left, total
from tests.support import params

ONE = params(width=1000, height=1000, steps=1)  # of cost 1


def job(name: str, step: int = 0, **changes: object) -> Job:
    return Job(name, "batch", 0, replace(ONE, **changes), State.QUEUED, "2026-11-22T10:00:00.000Z", step=step)  # type: ignore[arg-type]


def test_pace_is_the_median_and_ignores_what_has_no_cost() -> None:
    assert pace([(10, 1), (20, 2), (900, 1), (5, 0), (0, 5)]) == 10
    assert pace([]) is None


def test_a_running_job_needs_what_is_left_of_it() -> None:
    half = replace(job("a", 5), params=replace(ONE, steps=10))
    assert seconds_left(half, {"starter": 2.0}) == pytest.approx(10)
    assert seconds_left(half, {}) is None
    assert seconds_left(replace(half, step=99), {"starter": 2.0}) == 0


def test_jobs_are_dealt_to_the_worker_that_is_free_first() -> None:
    jobs = [job(name) for name in "abc"]
    paces = {"starter": 10.0}
    assert finish_times([], jobs, paces, 1) == {"a": 10, "b": 20, "c": 30}
    assert finish_times([], jobs, paces, 2) == {"a": 10, "b": 10, "c": 20}
    assert finish_times([], jobs, paces, 0) == finish_times([], jobs, paces, 1)


def test_estimates_end_where_a_model_is_not_known() -> None:
    known, unknown, after = job("a"), job("b", model="new"), job("c")
    assert finish_times([], [known, unknown, after], {"starter": 10.0}, 1) == {"a": 10}


def test_the_total_is_shared_by_the_workers_and_unknown_with_an_unknown_model() -> None:
    assert total([job("a")], {"starter": 3.0}, {"starter": 10.0}, 2) == 20
    assert total([], {"new": 1.0}, {"starter": 10.0}, 1) is None
    assert total([job("a", model="new")], {}, {"starter": 10.0}, 1) is None
    assert total([], {}, {}, 1) == 0
