"""Pictures that are handed over while their device is still at work on them."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.domain import State
from diffusion_local.engine import Pass, Picture
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import BadImage, OutOfMemory
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop
from tests.support import eventually
from tests.workers import open_runner

SIZES = {"width": 128, "height": 128, "steps": 4}


class Late(FakeEngine):
    """Hands its pictures over at once; ``finish(prompt, image)`` is what is waited for."""

    def __init__(self, finish: Callable[[str, PIL.Image], PIL.Image]) -> None:
        super().__init__(0)
        self.finish = finish
        self.begun: list[str] = []

    def run(self, crew: Pass) -> None:
        self.begun += [part.params.prompt for part in crew.live]
        super().run(crew)
        for part in crew.parts:
            part.made = self.late(part.params.prompt, part.result())

    def late(self, prompt: str, made: Picture) -> Picture:
        return Picture(lambda: (self.finish(prompt, made.image), {"late": True}), made.facts)


@pytest.fixture
def work(services: Services) -> Iterator[Callable[[FakeEngine], Runner]]:
    opened: list[Runner] = []

    def start(engine: FakeEngine) -> Runner:
        opened.append(open_runner(services, "cpu0", engine, Stop()))
        return opened[-1]

    yield start
    for runner in opened:
        runner.close()


def submit(services: Services, *prompts: str) -> list[str]:
    return [services.studio.submit(prompt, seed=1, **SIZES).job_ids[0] for prompt in prompts]


def test_the_next_picture_begins_before_the_last_is_there(services: Services, work: Any) -> None:
    second_begun = threading.Event()

    def finish(prompt: str, image: PIL.Image) -> PIL.Image:
        if prompt == "first":
            eventually(lambda: engine.begun == ["first", "second"])
            second_begun.set()
        return image

    engine = Late(finish)
    ids = submit(services, "first", "second")
    work(engine).run_due_jobs()
    assert second_begun.is_set()
    assert [services.jobs.get(each).state for each in ids] == [State.DONE] * 2
    assert all(image.facts["late"] for image in services.images.of_jobs(ids).values())


@pytest.mark.parametrize("error", [BadImage, OutOfMemory])
def test_one_that_turns_out_unusable_fails_alone(services: Services, work: Any, error: Any) -> None:
    def finish(prompt: str, image: PIL.Image) -> PIL.Image:
        if prompt == "bad":
            raise error
        return image

    bad, good = submit(services, "bad", "good")
    work(Late(finish)).run_due_jobs()
    job = services.jobs.get(bad)
    assert job.state is State.FAILED
    assert job.failure is not None
    assert job.failure.kind == error.kind
    assert services.jobs.get(good).state is State.DONE
    assert list(services.images.of_jobs([bad, good])) == [good]


def test_one_that_may_come_another_time_is_made_again(services: Services, work: Any) -> None:
    def finish(prompt: str, image: PIL.Image) -> PIL.Image:
        problem = OutOfMemory()
        problem.transient = True
        raise problem

    [job_id] = submit(services, "a red apple")
    work(Late(finish)).run_due_jobs()
    job = services.jobs.get(job_id)
    assert (job.state, job.tries) == (State.QUEUED, 1)


def test_the_device_s_time_is_counted_once(services: Services, work: Any) -> None:
    saver = work(FakeEngine(0))._saver
    now = time.monotonic()

    def late(ready_at: float) -> Picture:
        picture = Picture(PIL.new("RGB", (2, 2)))
        picture.ready_at = ready_at
        return picture

    def run(picture: Picture, seconds: float, handed_at: float) -> float:
        return round(saver._seconds([picture], seconds, handed_at), 6)

    assert run(Picture(PIL.new("RGB", (2, 2))), 1.0, now) == 1.0  # an engine that waits
    assert run(late(now + 0.5), 1.0, now) == 1.5  # handed over 0.5 s early
    assert run(late(now + 1.5), 0.9, now + 1.0) == 1.0  # began beside the one before, which took its first 0.4 s
    assert run(late(now + 9.0), 1.0, now + 8.0) == 2.0


def test_a_picture_that_was_kept_without_its_last_steps_says_so(services: Services, work: Any) -> None:
    class Incomplete(Late):
        def late(self, prompt: str, made: Picture) -> Picture:
            return Picture(lambda: (made.image, {"incomplete": {"details": "The detector failed."}}), made.facts)

    [job_id] = submit(services, "a red apple")
    work(Incomplete(lambda prompt, image: image)).run_due_jobs()
    [image] = services.images.of_jobs([job_id]).values()
    assert image.flag == "incomplete"
    assert [each.id for each in services.studio.pictures.page(flagged=True)] == [image.id]
    note = services.studio.events(job_id)[-1].note
    assert note.id == "event_incomplete"  # type: ignore[attr-defined]
    assert "The detector failed." in note


def test_a_cancel_is_heard_while_a_picture_is_finished(services: Services, work: Any) -> None:
    class Slow(Late):
        def late(self, prompt: str, made: Picture) -> Picture:
            def finish() -> tuple[PIL.Image, dict[str, Any]]:
                services.studio.queue.cancel([job_id])
                picture.check()
                pytest.fail("the look went on")

            picture = Picture(finish, made.facts)
            return picture

    [job_id] = submit(services, "a red apple")
    work(Slow(lambda prompt, image: image)).run_due_jobs()
    assert services.jobs.get(job_id).state is State.CANCELLED
    assert not services.images.of_jobs([job_id])
