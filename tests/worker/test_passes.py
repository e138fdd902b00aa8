"""Jobs of a list in one pass, and a pass that makes room for somebody who waits: every outcome, without a model."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.domain import Job, Params, State
from diffusion_local.engine import Pass
from diffusion_local.engine.fake import FakeEngine, draw_card
from diffusion_local.errors import OutOfMemory
from diffusion_local.gallery import recipes
from diffusion_local.messages import message
from diffusion_local.worker import reporting
from diffusion_local.worker import runner as runner_module
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop
from tests.support import FAILURE
from tests.workers import open_runner

pytestmark = pytest.mark.usefixtures("connection")

SIZES = {"width": 128, "height": 128, "steps": 4, "seed": 7}


class Watched(FakeEngine):
    """Remembers its passes; ``at[(first prompt, step)]`` is done when the pass of that prompt has made that step."""

    def __init__(self) -> None:
        super().__init__(0)
        self.passes: list[list[str]] = []
        self.at: dict[tuple[str, int], Callable[[], object]] = {}
        self.most = 16

    def run(self, crew: Pass) -> None:
        if crew.held is None and len(crew.live) > self.most:
            raise OutOfMemory
        first, requested = crew.parts[0], crew.wanted
        step_of_first = first.on_step

        def on_step(step: int, preview: Callable[[], PIL.Image] | None) -> None:
            act = self.at.pop((first.params.prompt, step), None)
            if act:
                act()
            step_of_first(step, preview)

        first.on_step = on_step
        try:
            super().run(crew)
        finally:
            first.on_step, crew.wanted = step_of_first, requested
        if crew.held is None:
            self.passes.append([part.params.prompt for part in crew.parts])


@pytest.fixture
def engine() -> Watched:
    return Watched()


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def runner(services: Services, engine: Watched, stop: Stop) -> Iterator[Runner]:
    settings = replace(services.settings, batch_size="4")
    opened = open_runner(replace(services, settings=settings), "cpu0", engine, stop)
    yield opened
    opened.close()


def submit_list(services: Services, *prompts: str, **changes: object) -> list[str]:
    numbers = SIZES | changes
    receipt = services.studio.lists.submit("\n".join(prompts), "text", **numbers)
    return [job.id for job in services.studio.jobs_of_batches([receipt.batch_id])]


def submit(services: Services, prompt: str = "urgent") -> str:
    [job_id] = services.studio.submit(prompt, **SIZES).job_ids
    return job_id


def job_of(services: Services, job_id: str) -> Job:
    return services.jobs.get(job_id)


def states(services: Services, ids: list[str]) -> list[State]:
    return [job_of(services, job_id).state for job_id in ids]


PROMPTS = ("one", "two", "three", "four")


def test_jobs_of_a_list_share_passes_and_each_has_its_own_picture(
    services: Services, engine: Watched, runner: Runner
) -> None:
    ids = submit_list(services, *PROMPTS, "five", "six", "seven")
    runner.run_due_jobs()
    assert engine.passes == [["one", "two", "three", "four"], ["five", "six"], ["seven"]]
    assert set(states(services, ids)) == {State.DONE}
    images = services.images.of_jobs(ids)
    for job_id in ids:
        with PIL.open(services.files.picture(images[job_id].key).local_path) as stored:
            assert stored.tobytes() == draw_card(job_of(services, job_id).params).tobytes()
            assert recipes.read_json(stored) is not None
    places = [images[job_id].facts.get("place") for job_id in ids]
    assert places == ["1/4", "2/4", "3/4", "4/4", "1/2", "2/2", None]


def test_what_somebody_waits_for_is_made_alone(services: Services, engine: Watched, runner: Runner) -> None:
    services.studio.submit("a", count=3, **SIZES)  # type: ignore[arg-type]
    runner.run_due_jobs()
    assert [len(each) for each in engine.passes] == [1, 1, 1]


@pytest.mark.parametrize(("prompt", "state"), [("[fail]", State.FAILED), ("[flaky]", State.QUEUED)])
def test_one_that_fails_does_not_take_the_others_down(
    services: Services, runner: Runner, prompt: str, state: State
) -> None:
    ids = submit_list(services, "one", prompt, "three", "four")
    runner.run_due_jobs()
    assert states(services, ids) == [State.DONE, state, State.DONE, State.DONE]
    assert job_of(services, ids[1]).tries == (1 if state is State.QUEUED else 0)


def test_one_that_is_cancelled_drops_out_and_the_others_go_on(
    services: Services, engine: Watched, runner: Runner
) -> None:
    ids = submit_list(services, *PROMPTS)
    engine.at["one", 2] = lambda: services.studio.queue.cancel([ids[2]])
    runner.run_due_jobs()
    assert states(services, ids) == [State.DONE, State.DONE, State.CANCELLED, State.DONE]
    assert [job_of(services, ids[0]).attempt, job_of(services, ids[3]).attempt] == [1, 1]


def test_one_whose_claim_is_lost_writes_nothing(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    engine.at["one", 2] = lambda: (services.control.pause(), services.jobs.recover("cpu0", FAILURE))
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}
    assert services.images.of_jobs(ids) == {}


def test_a_pause_gives_all_of_them_back(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    engine.at["one", 2] = lambda: services.studio.queue.pause(give_back=True)
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}
    assert {job_of(services, job_id).crashes for job_id in ids} == {0}


def test_a_stop_gives_all_of_them_back(services: Services, engine: Watched, runner: Runner, stop: Stop) -> None:
    ids = submit_list(services, *PROMPTS)
    engine.at["one", 2] = stop.request
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}


def test_without_memory_a_pass_is_halved_before_it_steps_down(
    services: Services, engine: Watched, runner: Runner
) -> None:
    engine.most = 2
    ids = submit_list(services, *PROMPTS, "five", "six")
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.DONE}
    assert engine.passes == [["one", "two"], ["three", "four"], ["five", "six"]]
    facts = services.images.of_jobs(ids)[ids[0]].facts
    assert (facts["rung"], "steps_down" in facts) == ("resident", False)


def test_one_that_never_fits_fails_alone(services: Services, runner: Runner) -> None:
    ids = submit_list(services, "one", "[oom]", "three", "four")
    runner.run_due_jobs()
    assert states(services, ids) == [State.DONE, State.FAILED, State.DONE, State.DONE]


def test_a_suspect_runs_alone(services: Services, engine: Watched, runner: Runner) -> None:
    submit_list(services, *PROMPTS)
    services.jobs.claim_next("cpu0")
    services.jobs.recover("cpu0", FAILURE)
    runner.run_due_jobs()
    assert engine.passes == [["one"], ["two", "three"], ["four"]]


def test_each_is_charged_its_share_of_the_time(services: Services, engine: Watched, runner: Runner) -> None:
    engine._step_seconds = 0.05
    submit_list(services, *PROMPTS)
    runner.run_due_jobs()
    [share] = services.view.shares(job_of(services, submit_list(services, "next")[0]).params)
    assert (share.together, share.count) == (4, 4)
    assert 0.05 <= share.seconds < 0.2  # four steps of 0.05 s for four pictures, and some work


# -- made again ------------------------------------------------------------------------------------------------------


def test_a_picture_with_a_place_is_made_in_it(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, "again", "other", place="3/4")
    runner.run_due_jobs()
    assert engine.passes == [["again"], ["other"]]
    assert {services.images.of_jobs(ids)[job_id].facts["place"] for job_id in ids} == {"3/4"}


def test_a_picture_is_asked_for_again_exactly(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    runner.run_due_jobs()
    facts = services.images.of_jobs(ids)[ids[2]].facts
    [plain] = services.studio.queue.again([ids[2]]).job_ids
    [exact] = services.studio.queue.again([ids[2]], exactly=True).job_ids
    assert job_of(services, plain).params == job_of(services, ids[2]).params
    requested = job_of(services, exact).params
    assert (requested.place, requested.rung) == ("3/4", facts["rung"])
    runner.run_due_jobs()
    assert services.images.of_jobs([exact])[exact].facts["place"] == "3/4"


# -- put aside -------------------------------------------------------------------------------------------------------


def test_somebody_who_waits_goes_first_at_the_next_step(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    seen: dict[str, object] = {}

    def come() -> None:
        seen["urgent"] = submit(services)

    def look() -> None:
        jobs = [job_of(services, job_id) for job_id in ids]
        seen["aside"] = {(job.state, job.step, job.phase) for job in jobs}

    engine.at["one", 2] = come
    engine.at["urgent", 3] = look
    runner.run_due_jobs()
    assert engine.passes == [["urgent"], list(PROMPTS)]
    assert seen["aside"] == {(State.RUNNING, 2, message("phase_aside"))}
    assert set(states(services, [*ids, str(seen["urgent"])])) == {State.DONE}
    assert {job_of(services, job_id).attempt for job_id in ids} == {1}


def test_it_goes_first_before_another_model_too(services: Services, engine: Watched, runner: Runner) -> None:
    [held] = submit_list(services, "one")
    loads: list[str] = []
    load = engine.load

    def noted(model: object, choice: object = None, on_progress: object = None) -> None:
        loads.append(model.id)  # type: ignore[attr-defined]
        load(model, choice, on_progress)  # type: ignore[arg-type]

    engine.load = noted  # type: ignore[method-assign, assignment]
    folder = services.settings.models / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    urgent: list[str] = []
    engine.at["one", 2] = lambda: urgent.extend(services.studio.submit("urgent", model="mine", **SIZES).job_ids)  # type: ignore[arg-type]
    runner.run_due_jobs()
    assert engine.passes == [["urgent"], ["one"]]
    assert loads == ["starter", "mine", "starter"]
    assert states(services, [held, *urgent]) == [State.DONE, State.DONE]


def test_one_put_aside_can_be_cancelled(
    services: Services, engine: Watched, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "KEEP_SECONDS", 0.0)
    ids = submit_list(services, *PROMPTS)
    engine.at["one", 2] = lambda: submit(services)
    engine.at["urgent", 2] = lambda: services.studio.queue.cancel([ids[1]])
    runner.run_due_jobs()
    assert states(services, ids) == [State.DONE, State.CANCELLED, State.DONE, State.DONE]


def test_all_put_aside_can_be_given_back(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    urgent: list[str] = []
    engine.at["one", 2] = lambda: urgent.append(submit(services))
    engine.at["urgent", 2] = lambda: services.studio.queue.pause_batch(
        job_of(services, ids[0]).batch_id, give_back=True
    )
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}
    assert states(services, urgent) == [State.DONE]


def test_a_stop_gives_back_what_runs_and_what_is_aside(
    services: Services, engine: Watched, runner: Runner, stop: Stop
) -> None:
    ids = submit_list(services, *PROMPTS)
    urgent: list[str] = []
    engine.at["one", 2] = lambda: urgent.append(submit(services))
    engine.at["urgent", 2] = stop.request
    runner.run_due_jobs()
    assert set(states(services, [*ids, *urgent])) == {State.QUEUED}


def test_one_that_fails_meanwhile_leaves_what_is_aside_alone(
    services: Services, engine: Watched, runner: Runner
) -> None:
    ids = submit_list(services, *PROMPTS)
    urgent: list[str] = []
    engine.at["one", 2] = lambda: urgent.append(submit(services, "[fail]"))
    runner.run_due_jobs()
    assert states(services, urgent) == [State.FAILED]
    assert set(states(services, ids)) == {State.DONE}


def test_a_list_moves_on_however_many_come(
    services: Services, engine: Watched, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "TURN_SECONDS", 0.0)
    [held] = submit_list(services, "one")
    engine.at["one", 2] = lambda: [submit(services) for _ in range(3)]
    runner.run_due_jobs()
    assert engine.passes == [["one"], ["urgent"], ["urgent"], ["urgent"]]
    assert states(services, [held]) == [State.DONE]


def test_a_suspect_is_not_put_aside(services: Services, engine: Watched, runner: Runner) -> None:
    submit_list(services, "one")
    services.jobs.claim_next("cpu0")
    services.jobs.recover("cpu0", FAILURE)
    engine.at["one", 2] = lambda: submit(services)
    runner.run_due_jobs()
    assert engine.passes == [["one"], ["urgent"]]


def test_recovery_covers_what_runs_and_what_is_aside(services: Services, engine: Watched, runner: Runner) -> None:
    ids = submit_list(services, *PROMPTS)
    urgent: list[str] = []
    recovered = threading.Event()

    def recover() -> None:
        services.control.pause()
        assert len(services.jobs.recover("cpu0", FAILURE)) == 5
        recovered.set()

    engine.at["one", 2] = lambda: urgent.append(submit(services))
    engine.at["urgent", 2] = recover
    runner.run_due_jobs()
    assert recovered.is_set()
    assert set(states(services, [*ids, *urgent])) == {State.QUEUED}


# -- kept over a stop ------------------------------------------------------------------------------------------------


class Counting(Watched):
    """Counts the steps that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def _seconds(self, params: Params) -> float:
        self.steps += 1
        return 0.0


@pytest.fixture
def restarted(services: Services) -> Iterator[Callable[[], tuple[Counting, Runner, Stop]]]:
    """Starts workers one after another, each with the first one's folder."""
    opened: list[Runner] = []

    def start() -> tuple[Counting, Runner, Stop]:
        engine, stop = Counting(), Stop()
        settings = replace(services.settings, batch_size="2")
        opened.append(open_runner(replace(services, settings=settings), "cpu0", engine, stop))
        return engine, opened[-1], stop

    yield start
    for runner in opened:
        runner.close()


def kept_files(services: Services) -> list[str]:
    return sorted(path.name for path in services.settings.passes.glob("*"))


def test_a_stop_keeps_what_was_made_for_the_next_start(services: Services, restarted: Any) -> None:
    ids = submit_list(services, "one", "two", steps=10)
    engine, runner, stop = restarted()
    engine.at["one", 7] = stop.request
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}
    assert kept_files(services) == [f"{ids[0]}-1.pass"]
    engine, runner, _ = restarted()
    runner.run_due_jobs()
    assert engine.steps == 2 * 3
    assert set(states(services, ids)) == {State.DONE}
    assert [services.images.of_jobs(ids)[job_id].facts["place"] for job_id in ids] == ["1/2", "2/2"]
    assert kept_files(services) == []


def test_a_stop_in_the_second_pass_keeps_what_was_made(services: Services, restarted: Any) -> None:
    ids = submit_list(services, "one", "two", steps=4, hires_scale=1.5, hires_steps=6)
    engine, runner, stop = restarted()
    engine.at["one", 7] = stop.request
    runner.run_due_jobs()
    assert set(states(services, ids)) == {State.QUEUED}
    engine, runner, _ = restarted()
    runner.run_due_jobs()
    assert engine.steps == 2 * 3
    assert set(states(services, ids)) == {State.DONE}
    job = job_of(services, ids[0])
    assert (job.step, job.params.total_steps) == (10, 10)
    image = services.images.of_jobs(ids)[ids[0]]
    assert (image.width, image.height) == job.params.final_size


def test_jobs_with_and_without_a_second_pass_share_none(services: Services, engine: Watched, runner: Runner) -> None:
    submit_list(services, "one", "two --hires_scale 1.5", "three", "four --hires_scale 1.5")
    runner.run_due_jobs()
    assert [len(each) for each in engine.passes] == [1, 1, 1, 1]


def test_a_stop_keeps_what_is_aside_too(services: Services, restarted: Any) -> None:
    ids = submit_list(services, "one", "two", steps=10)
    engine, runner, stop = restarted()
    urgent: list[str] = []
    engine.at["one", 7] = lambda: urgent.append(submit(services))
    engine.at["urgent", 2] = stop.request
    runner.run_due_jobs()
    assert set(states(services, [*ids, *urgent])) == {State.QUEUED}
    assert kept_files(services) == [f"{ids[0]}-1.pass"]
    engine, runner, _ = restarted()
    runner.run_due_jobs()
    assert engine.steps == 4 + 2 * 3
    assert set(states(services, [*ids, *urgent])) == {State.DONE}


def test_one_that_is_gone_leaves_its_place_empty(services: Services, restarted: Any) -> None:
    ids = submit_list(services, "one", "two", "three", steps=10)
    engine, runner, stop = restarted()
    engine.at["one", 7] = stop.request
    runner.run_due_jobs()
    services.studio.queue.cancel([ids[1]])
    engine, runner, _ = restarted()
    runner.run_due_jobs()
    assert states(services, ids) == [State.DONE, State.CANCELLED, State.DONE]
    images = services.images.of_jobs(ids)
    assert [images[job_id].facts.get("place") for job_id in (ids[0], ids[2])] == ["1/2", None]
    assert engine.steps == 3 + 10


def test_what_is_kept_is_used_once_and_only_where_it_fits(services: Services, restarted: Any) -> None:
    ids = submit_list(services, "one", "two", steps=10)
    engine, runner, stop = restarted()
    engine.at["one", 7] = stop.request
    runner.run_due_jobs()
    [path] = services.settings.passes.iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"damaged")
    engine, runner, _ = restarted()
    runner.run_due_jobs()
    assert engine.steps == 2 * 10
    assert set(states(services, ids)) == {State.DONE}
    assert kept_files(services) == []
