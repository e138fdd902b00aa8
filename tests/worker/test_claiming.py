"""The next job is claimed, and its sources are fetched, while the last step of the current one runs."""

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.dispatch.local import LocalDispatch, terms_of
from diffusion_local.domain import Job, State
from diffusion_local.engine import Pass
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import verbatim
from diffusion_local.worker.claiming import LEAD_SECONDS
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop
from tests.support import FAILURE, eventually

SMALL = {"width": 128, "height": 128, "steps": 4}


def thread_name() -> str:
    return threading.current_thread().name.partition("_")[0]


class Watched(LocalDispatch):
    """Notes claims and fetched sources, with the thread. Claims of the thread ``away_from`` fail."""

    def __init__(self, services: Services) -> None:
        super().__init__(services, "cpu0")
        self.claims: list[tuple[str, list[str]]] = []
        self.fetched: list[str] = []
        self.away_from = ""

    def claim(self, *args: Any, **kwargs: Any) -> list[Job]:
        if self.away_from == thread_name():
            raise DatabaseProblem(verbatim("gone"))
        jobs = super().claim(*args, **kwargs)
        self.claims.append((thread_name(), [job.id for job in jobs]))
        return jobs

    def source(self, *args: Any) -> bytes:
        self.fetched.append(thread_name())
        return super().source(*args)


class Scripted(FakeEngine):
    """Runs ``in_last_step`` of the test once, in the last step of the first picture. That step begins only when the
    previous picture is ``saved``.
    """

    saved: Callable[[], object]

    def __init__(self, in_last_step: Any = lambda: None) -> None:
        super().__init__(0)
        self._script = in_last_step

    def run(self, crew: Pass) -> None:
        [part] = crew.parts
        on_step = part.on_step

        def step(number: int, preview: Any) -> None:
            if number == part.params.total_steps - 1:
                self.saved()
            on_step(number, preview)
            if number == part.params.total_steps - 1:
                script, self._script = self._script, lambda: None
                script()

        part.on_step = step
        super().run(crew)


def png(colour: str) -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (128, 128), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def dispatch(services: Services) -> Iterator[Watched]:
    found = Watched(services)
    yield found
    found._storage.close()


def open_runner(services: Services, dispatch: Watched, engine: Scripted, stop: Stop | None = None) -> Runner:
    runner = Runner(dispatch, terms_of(services.settings), engine, services.catalog, stop or Stop(), ahead=True)
    engine.saved = lambda: eventually(lambda: not runner._saver.unsaved)
    return runner


def work_off(services: Services, dispatch: Watched, engine: Scripted, stop: Stop | None = None) -> None:
    runner = open_runner(services, dispatch, engine, stop)
    runner.run_due_jobs()
    runner.close()


def test_only_the_first_job_is_claimed_while_the_device_waits(services: Services, dispatch: Watched) -> None:
    ids = services.studio.submit("a red apple", count=3, **SMALL).job_ids
    work_off(services, dispatch, Scripted())
    assert [(thread, jobs[0]) for thread, jobs in dispatch.claims if jobs] == [
        ("MainThread", ids[0]),
        ("claimer", ids[1]),
        ("claimer", ids[2]),
    ]
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}


def test_a_job_submitted_after_that_is_found_all_the_same(services: Services, dispatch: Watched) -> None:
    def submit_late() -> None:
        eventually(lambda: len(dispatch.claims) == 2)
        late.extend(services.studio.submit("a tree", **SMALL).job_ids)

    late: list[str] = []
    services.studio.submit("a red apple", **SMALL)
    work_off(services, dispatch, Scripted(submit_late))
    assert services.jobs.get(late[0]).state is State.DONE


def test_the_sources_of_the_next_job_are_there_when_it_begins(services: Services, dispatch: Watched) -> None:
    source, other = (services.studio.sources.add(png(colour)).id for colour in ("green", "blue"))
    ids = services.studio.submit("a red apple", count=2, source=source, kind="img2img", **SMALL).job_ids
    ids += services.studio.submit("a red apple", **SMALL).job_ids
    ids += services.studio.submit("a red apple", source=other, kind="img2img", **SMALL).job_ids
    work_off(services, dispatch, Scripted())
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
    assert dispatch.fetched == ["MainThread", "claimer"]


def test_a_stop_gives_the_waiting_job_back(services: Services, dispatch: Watched) -> None:
    def stop_after_claim() -> None:
        eventually(lambda: len(dispatch.claims) == 2)
        stop.request()

    stop = Stop(finish_first=True)
    ids = services.studio.submit("a red apple", count=3, **SMALL).job_ids
    work_off(services, dispatch, Scripted(stop_after_claim), stop)
    jobs = [services.jobs.get(job_id) for job_id in ids]
    assert [(job.state, job.attempt, job.crashes) for job in jobs] == [
        (State.DONE, 1, 0),
        (State.QUEUED, 1, 0),
        (State.QUEUED, 0, 0),
    ]


def test_a_studio_that_is_away_meanwhile_is_asked_again(services: Services, dispatch: Watched) -> None:
    dispatch.away_from = "claimer"
    ids = services.studio.submit("a red apple", count=2, **SMALL).job_ids
    work_off(services, dispatch, Scripted())
    assert {thread for thread, _ in dispatch.claims} == {"MainThread"}
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}


def test_a_suspect_runs_without_a_job_that_waits(services: Services, dispatch: Watched) -> None:
    ids = services.studio.submit("a red apple", count=2, **SMALL).job_ids
    [job] = services.jobs.claim("cpu0", "")
    services.jobs.recover("cpu0", FAILURE)
    assert job.id == ids[0]
    work_off(services, dispatch, Scripted())
    by = {jobs[0]: thread for thread, jobs in dispatch.claims if jobs}
    assert by[ids[1]] == "MainThread"
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}


def test_a_long_step_does_not_take_a_job_early(services: Services, dispatch: Watched) -> None:
    ids = services.studio.submit("a red apple", count=2, **SMALL).job_ids
    runner = open_runner(services, dispatch, Scripted())
    runner._claiming.expect(LEAD_SECONDS + 3600)
    assert dispatch.claims == []
    assert [job.id for job in runner._claiming.waiting] == ids[:1]  # but at once when it is asked for
    runner.close()
    assert services.jobs.get(ids[0]).state is State.QUEUED
