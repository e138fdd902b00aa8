"""A worker in this process, with the engine that needs no model."""

from collections.abc import Callable

import pytest

from diffusion_local.compose import Services
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner

Work = Callable[[], None]


@pytest.fixture
def work(services: Services) -> Work:
    """Makes every picture that is due."""

    def off() -> None:
        runner = open_runner(services, "cpu0", FakeEngine(0), Stop())
        runner.run_due_jobs()
        runner.close()

    return off
