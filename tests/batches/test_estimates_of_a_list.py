"""Estimates from end to end: a mixed list is made, and each picture remembers what was expected of it."""

from diffusion_local.compose import Services
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.worker.stopping import Stop
from scripts.estimate_error import estimate_error
from tests.workers import open_runner

LINES = "".join(f"picture {place} --size 128x128 --steps {2 + place % 3 * 4}\n" for place in range(18))


def test_a_mixed_list_is_estimated_and_the_error_is_measured(services: Services) -> None:
    batch_id = services.studio.lists.submit(LINES).batch_id
    runner = open_runner(services, "cpu0", FakeEngine(0.02), Stop())
    runner.run_due_jobs()
    runner.close()
    error = estimate_error(services.database, batch_id)
    assert error.count >= 15  # of the first two or three nothing was known yet
    assert error.median is not None
    assert error.median < 1  # a few per cent where nothing else runs
    check = services.studio.lists.check("a cat --size 128x128 --steps 10\n" * 10)
    measured = [image.seconds for image in services.studio.gallery(limit=18) if image.params.steps == 10]
    assert len(measured) == 6
    assert 10 * min(measured) <= check.seconds <= 10 * max(measured) + 0.01
