"""One application over one home for all tests of a module; jobs are worked on by hand, by the test card."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from diffusion_local.domain import Failure, Image
from diffusion_local.studio import Studio
from tests.support import claimed
from tests.web.conftest import client_of, drawn, services_of

SMALL = {"width": 128, "height": 128, "steps": 4}
JOBS = "/api/v1/jobs"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return services_of(tmp_path_factory)


@pytest.fixture(scope="module")
def client(services: Services, request: pytest.FixtureRequest) -> TestClient:
    """With the page if the module says ``PAGE = True``."""
    return client_of(services, page=getattr(request.module, "PAGE", False))


@pytest.fixture(autouse=True)
def empty_queue(services: Services) -> None:
    """What another test of the module left waiting is gone."""
    services.studio.queue.resume()
    services.studio.queue.cancel(waiting=True)
    for job in services.studio.jobs("running"):
        services.jobs.stop(job.claim)


def draw_next(services: Services) -> Image:
    return drawn(services, claimed(services.jobs))


def fail_next(services: Services, message: str = "it broke") -> None:
    services.jobs.fail(claimed(services.jobs).claim, Failure("engine_error", message))


class Hands:
    """Ends each job in the moment in which it is submitted: what a worker would take seconds for."""

    def __init__(self, services: Services, end: Callable[[Services], object]) -> None:
        self._house, self._end = services, end
        self.submitted = 0
        self._submit = Studio.submit

    def submit(self, studio: Studio, *arguments: object, **settings: object) -> object:
        waiting = len(studio.jobs("queued"))
        receipt = self._submit(studio, *arguments, **settings)  # type: ignore[arg-type]
        for _ in range(len(studio.jobs("queued")) - waiting):
            self._end(self._house)
            self.submitted += 1
        return receipt


def hands(services: Services, monkeypatch: pytest.MonkeyPatch, end: Callable[[Services], object]) -> Hands:
    worker = Hands(services, end)
    monkeypatch.setattr(Studio, "submit", lambda studio, *args, **named: worker.submit(studio, *args, **named))
    return worker


@pytest.fixture
def drawing(services: Services, monkeypatch: pytest.MonkeyPatch) -> Hands:
    return hands(services, monkeypatch, draw_next)


@pytest.fixture
def failing(services: Services, monkeypatch: pytest.MonkeyPatch) -> Hands:
    return hands(services, monkeypatch, fail_next)
