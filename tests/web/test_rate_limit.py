"""A flood from one address is slowed down; reading, the page's polls and everybody else are not."""

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from diffusion_local.settings import Settings
from diffusion_local.web.rate_limit import BURST_SECONDS, RateLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def floods(settings: Settings, clock: Clock) -> RateLimit:
    return RateLimit(PlainTextResponse("done"), replace(settings, writes_per_second=2.0), clock)  # type: ignore[arg-type]


def client(floods: Any, address: str = "10.0.0.9") -> TestClient:
    return TestClient(floods, client=(address, 1))


def test_beyond_the_burst_one_waits_until_there_is_room(floods: RateLimit, clock: Clock) -> None:
    caller = client(floods)
    answers = [caller.post("/api/v1/jobs").status_code for _ in range(2 * BURST_SECONDS + 5)]
    assert answers == [200] * 2 * BURST_SECONDS + [429] * 5
    refused = caller.post("/api/v1/jobs")
    assert refused.json()["error"]["code"] == "too_many_requests"
    clock.now += int(refused.headers["Retry-After"])
    assert caller.post("/api/v1/jobs").status_code == 200


def test_reads_polls_and_others_are_not_touched(floods: RateLimit) -> None:
    caller = client(floods)
    while caller.post("/x").status_code == 200:
        continue
    assert caller.get("/x").status_code == 200
    assert caller.post("/gradio_api/run/predict").status_code == 200
    assert client(floods, "10.0.0.8").post("/x").status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_machines_own_programs_are_not_limited(floods: RateLimit, address: str) -> None:
    assert {client(floods, address).post("/x").status_code for _ in range(100)} == {200}


def test_a_flood_of_addresses_is_forgotten(floods: RateLimit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_local.web.rate_limit.MOST_ADDRESSES", 10)
    for number in range(50):
        client(floods, f"10.0.1.{number}").post("/x")
    assert len(floods._buckets) == 10
