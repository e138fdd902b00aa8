"""The next job is claimed, and its sources are fetched, while the last step of the current one runs."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.dispatch.local import LocalDispatch, terms_of
from diffusion_local.domain import Batch, Job, Lane, State, utc_now
from diffusion_local.engine import Pass
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import verbatim
from diffusion_local.queue.jobs import new_jobs
from diffusion_local.worker.claiming import LEAD_SECONDS, Claiming
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.sources import SourcePictures
from diffusion_local.worker.stopping import Stop
from tests.support import FAILURE, eventually, params

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


# -- claims with a delivery --------------------------------------------------------------------------------------------


class Queue:
    """A dispatch of three jobs."""

    def __init__(self) -> None:
        self.jobs = [running_job(number) for number in range(3)]

    def ready(self) -> bool:
        return True

    def claim(self, loaded: str) -> list[Job]:
        return [self.jobs.pop(0)] if self.jobs else []


def running_job(number: int) -> Job:
    batch = Batch("b", "", "", Lane.BATCH, 3, utc_now())
    return replace(new_jobs(batch, [params()])[0], id=str(number), state=State.RUNNING)


@pytest.fixture
def claiming(monkeypatch: pytest.MonkeyPatch) -> Iterator[Claiming]:
    """In the second of two passes of 0.4 s, 0.1 s after its start; a delivery takes 0.05 s."""
    now = [0.0]
    monkeypatch.setattr("diffusion_local.worker.claiming.time.monotonic", lambda: now[0])
    dispatch: Any = Queue()
    found = Claiming(dispatch, SourcePictures(dispatch), Stop(), lambda: "starter", ahead=True)
    found.next_jobs()
    now[0] = 0.4
    found.next_jobs()
    now[0] = 0.5

    def deliver(loaded: str | None) -> list[Job]:
        now[0] += 0.05
        return []

    found._began -= 1.0  # too late: only the delivery's duration is learned
    found.finish(deliver)
    found._began += 1.0
    yield found
    found._claimed = None
    found.close()


def delivered(claiming: Claiming) -> tuple[list[str | None], list[Job]]:
    """(arguments of a delivery, the next jobs)."""
    asked: list[str | None] = []

    def finish(loaded: str | None) -> list[Job]:
        asked.append(loaded)
        return [] if loaded is None else [running_job(7)]

    claiming.finish(finish)
    return asked, claiming.next_jobs()


def test_a_delivery_shortly_before_the_next_turn_claims_its_job(claiming: Claiming) -> None:
    asked, jobs = delivered(claiming)
    assert (asked, [job.id for job in jobs]) == (["starter"], ["7"])


@pytest.mark.parametrize(
    "change",
    [
        {"_pass_seconds": None},  # another kind of picture than the last
        {"_pass_seconds": 3.0},  # too early
        {"_delivery_seconds": 0.3},  # it may come too late
        {"_claimer": None},
        {"held": True},
        {"_running": [replace(running_job(1), crashes=1)]},
    ],
)
def test_other_deliveries_claim_nothing(claiming: Claiming, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(claiming, name, value)
    asked, jobs = delivered(claiming)
    assert (asked, [job.id for job in jobs]) == ([None], ["2"])


def test_after_a_lost_answer_to_a_delivery_unknown_jobs_are_requeued_once(claiming: Claiming) -> None:
    def finish(loaded: str | None) -> list[Job]:
        raise DatabaseProblem(verbatim("gone"))

    calls: list[int] = []
    claiming._requeue_unknown = lambda: calls.append(1)
    with pytest.raises(DatabaseProblem):
        claiming.finish(finish)
    assert [job.id for job in claiming.next_jobs()] == ["2"]
    claiming.next_jobs()
    assert calls == [1]


def test_a_job_whose_claim_ahead_got_lost_on_its_way_is_requeued(services: Services, dispatch: Watched) -> None:
    """The studio claimed it, but the worker has not heard of it."""
    claim = dispatch.claim

    def deaf(*args: Any, **kwargs: Any) -> list[Job]:
        jobs = claim(*args, **kwargs)
        if thread_name() == "claimer" and not lost:
            lost.extend(jobs)
            raise DatabaseProblem(verbatim("gone"))
        return jobs

    lost: list[Job] = []
    dispatch.claim = deaf  # type: ignore[method-assign]
    ids = services.studio.submit("a red apple", count=3, **SMALL).job_ids
    work_off(services, dispatch, Scripted())
    assert lost
    assert {services.jobs.get(job_id).state for job_id in ids} == {State.DONE}
