"""How many pictures share a pass is what was measured to pay."""

from dataclasses import replace

import pytest

from diffusion_local.domain import Job, Kind, Lane, State
from diffusion_local.queue.estimates import Share
from diffusion_local.queue.pass_sizes import LONGEST_STEP, best_size
from diffusion_local.worker.ladder import PassSizes
from tests.support import params

JOB = Job("a", "batch", 0, params(steps=20), State.RUNNING, "2026-11-22T10:00:00.000Z", lane=Lane.BATCH)


def sizes(wanted: str = "auto", explores: bool = True, *history: Share) -> PassSizes:
    return PassSizes(wanted, explores, lambda params: list(history))


def settled(paces: dict[int, float], rounds: int = 60) -> tuple[list[int], int]:
    """The sizes that are tried one after another on a device with these paces, and the one that stays."""
    learned, tried = sizes(), []
    for _ in range(rounds):
        size = learned.size_for(JOB)
        if size not in tried:
            tried.append(size)
        learned.record(JOB.params, size, paces[size])
    return tried, learned.size_for(JOB)


def test_larger_passes_are_tried_while_they_pay() -> None:
    assert settled({1: 0.132, 2: 0.11, 4: 0.0952, 8: 0.0905, 16: 0.0881}) == ([1, 2, 4, 8, 16], 16)
    assert settled({1: 0.638, 2: 0.61, 4: 0.598, 8: 0.595}) == ([1, 2, 4, 8], 4)
    assert settled({1: 4.0, 2: 4.1}) == ([1, 2], 1)


def test_nobody_waits_longer_for_a_step_than_the_bound() -> None:
    step = LONGEST_STEP * 20
    assert settled({1: step / 2 * 0.9, 2: step / 2 * 0.8}) == ([1, 2], 2)
    assert settled({1: step * 0.9}) == ([1], 1)
    assert best_size({1: 1.0, 8: 0.9}, 1, explores=False) == 1


def test_sizes_below_a_known_one_are_not_measured_again() -> None:
    assert sizes("auto", True, Share(16, 0.5, 200)).size_for(JOB) == 16
    assert sizes("auto", True, Share(4, 0.5, 200)).size_for(JOB) == 8
    assert sizes("auto", True, Share(4, 0.5, 100), Share(8, 0.6, 100)).size_for(JOB) == 4
    assert sizes("auto", False, Share(16, 0.5, 200)).size_for(JOB) == 1


def test_without_exploring_only_what_was_measured_counts() -> None:
    assert sizes("auto", False).size_for(JOB) == 1
    paid = sizes("auto", False, Share(1, 1.0, 9), Share(4, 0.5, 20))
    assert paid.size_for(JOB) == 4
    too_few = sizes("auto", False, Share(1, 1.0, 9), Share(4, 0.5, 7))
    assert too_few.size_for(JOB) == 1


def test_the_first_pass_of_a_size_does_not_count() -> None:
    learned = sizes()
    for seconds in (99.0, 0.1, 0.1):
        assert learned.size_for(JOB) == 1
        learned.record(JOB.params, 1, seconds)
    assert learned.size_for(JOB) == 2


def test_a_number_is_taken_as_it_is() -> None:
    assert sizes("6").size_for(JOB) == 6
    assert sizes("1").size_for(JOB) == 1


@pytest.mark.parametrize(
    "job",
    [
        replace(JOB, lane=Lane.INTERACTIVE),
        replace(JOB, crashes=1),
        replace(JOB, params=replace(JOB.params, kind=Kind.UPSCALE)),
        replace(JOB, params=replace(JOB.params, place="2/4")),
    ],
)
def test_some_run_alone(job: Job) -> None:
    assert sizes("8").size_for(job) == 1
