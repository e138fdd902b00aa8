"""Many submits share one estimate."""

from dataclasses import replace

import pytest

from diffusion_local.domain import Job, Lane, State
from diffusion_local.queue import recent_estimates
from diffusion_local.queue.recent_estimates import RecentEstimates
from tests.support import params


def test_many_submits_share_one_estimate_per_lane_and_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter((10.0, None, 30.0))
    recent = RecentEstimates()
    first = Job("a", "batch", 0, params(), State.QUEUED, "2026-11-22T10:00:00.000Z")

    def seconds(each: Job) -> float | None:
        return recent.seconds(each, lambda _: next(made))

    assert [seconds(first), seconds(replace(first, id="b"))] == [10.0, 10.0]
    other = replace(first, lane=Lane.BATCH)
    assert [seconds(other), seconds(other)] == [None, None]  # that nothing is known is also kept
    monkeypatch.setattr(recent_estimates, "RECENT_SECONDS", 0.0)
    assert seconds(first) == 30.0
