"""One application over one home for all tests of a module; jobs are worked on by hand, by the test card."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import House
from diffusion_local.domain import Failure, Image
from diffusion_local.studio import Studio
from tests.support import claimed
from tests.web.conftest import client_of, drawn, house_of

SMALL = {"width": 128, "height": 128, "steps": 4}
JOBS = "/api/v1/jobs"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_of(tmp_path_factory)


@pytest.fixture(scope="module")
def client(house: House) -> TestClient:
    return client_of(house)


@pytest.fixture(autouse=True)
def empty_queue(house: House) -> None:
    """What another test of the module left waiting is gone."""
    house.studio.resume()
    house.studio.cancel(waiting=True)
    for job in house.studio.jobs("running"):
        house.jobs.stop(job.claim)


def draw_next(house: House) -> Image:
    return drawn(house, claimed(house.jobs))


def fail_next(house: House, message: str = "it broke") -> None:
    house.jobs.fail(claimed(house.jobs).claim, Failure("engine_error", message))


class Hands:
    """Ends each job in the moment in which it is submitted: what a worker would take seconds for."""

    def __init__(self, house: House, end: Callable[[House], object]) -> None:
        self._house, self._end = house, end
        self.submitted = 0
        self._submit = Studio.submit

    def submit(self, studio: Studio, *arguments: object, **settings: object) -> object:
        waiting = len(studio.jobs("queued"))
        receipt = self._submit(studio, *arguments, **settings)  # type: ignore[arg-type]
        for _ in range(len(studio.jobs("queued")) - waiting):
            self._end(self._house)
            self.submitted += 1
        return receipt


def hands(house: House, monkeypatch: pytest.MonkeyPatch, end: Callable[[House], object]) -> Hands:
    worker = Hands(house, end)
    monkeypatch.setattr(Studio, "submit", lambda studio, *args, **named: worker.submit(studio, *args, **named))
    return worker


@pytest.fixture
def drawing(house: House, monkeypatch: pytest.MonkeyPatch) -> Hands:
    return hands(house, monkeypatch, draw_next)


@pytest.fixture
def failing(house: House, monkeypatch: pytest.MonkeyPatch) -> Hands:
    return hands(house, monkeypatch, fail_next)
