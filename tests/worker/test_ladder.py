"""Out of memory is a step down, not a failure: the same job again, and the rung remembered."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as PIL

from diffusion_local.compose import Services
from diffusion_local.domain import Claim, Job, Kind, State
from diffusion_local.engine import OnProgress
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.engine.memory import GIB, RungChoice
from diffusion_local.errors import OutOfMemory
from diffusion_local.gallery import recipes
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.queue.jobs import Flags, JobStore
from diffusion_local.worker.runner import Runner
from diffusion_local.worker.stopping import Stop
from tests.workers import open_runner


class Recording(FakeEngine):
    """Remembers on which rungs it was asked to load; ``others`` models are said to be in memory beside."""

    def __init__(self, others: int = 0) -> None:
        super().__init__(0)
        self.rungs: list[str] = []
        self.others = others
        self.fails_to_load: set[str] = set()

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        assert choice is not None
        self.rungs.append(choice.rung)
        if choice.rung in self.fails_to_load:
            self.unload()
            raise OutOfMemory
        super().load(model, choice, on_progress)

    def free_caches(self) -> bool:
        spared, self.others = self.others > 0, 0
        return spared


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def runner(services: Services, engine: Recording) -> Iterator[Runner]:
    opened = open_runner(services, "cpu0", engine, Stop())
    yield opened
    opened.close()


@pytest.fixture
def phases(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What jobs are said to be doing."""
    collected: list[str] = []
    report = services.jobs.report_all

    def listen(self: JobStore, reports: Sequence[tuple[Claim, int, str]]) -> list[Flags | None]:
        collected.extend(phase for _, _, phase in reports)
        return report(reports)

    monkeypatch.setattr(JobStore, "report_all", listen)
    return collected


def run(services: Services, runner: Runner, prompt: str, **settings: Any) -> Job:
    sizes = {"width": 256, "height": 256, "steps": 4, "seed": 7}
    [job_id] = services.studio.submit(prompt, **sizes | settings).job_ids
    runner.run_due_jobs()
    return services.jobs.get(job_id)


def facts(services: Services, job: Job) -> dict[str, Any]:
    assert job.state is State.DONE, job.failure
    image = services.images.of_jobs([job.id])[job.id]
    with PIL.open(services.files.picture(image.key).local_path) as stored:
        found = recipes.read_json(stored)
    assert found is not None
    return dict(found["facts"])


def test_a_job_that_fits_says_on_which_rung_and_why(services: Services, runner: Runner, engine: Recording) -> None:
    found = facts(services, run(services, runner, "a red apple"))
    assert found["rung"] == "resident"
    assert "GiB free" in found["rung_why"]
    assert "steps_down" not in found
    assert engine.rungs == ["resident"]


def test_out_of_memory_steps_down_and_runs_the_same_job_again(
    services: Services, runner: Runner, engine: Recording, phases: list[str]
) -> None:
    job = run(services, runner, "[oom:model_offload]")
    found = facts(services, job)
    assert (job.attempt, job.tries, job.crashes) == (1, 0, 0)
    assert engine.rungs == ["resident", "vae_tiling", "encoder_offload", "block_streaming", "model_offload"]
    assert found["rung"] == "model_offload"
    assert found["steps_down"] == ["resident", "vae_tiling", "encoder_offload", "block_streaming"]
    assert found["rung_why"].startswith("block_streaming ran out of memory")
    assert message("phase_stepping_down", how=message("rung_model_offload")) in phases


def test_the_rung_is_remembered_for_model_and_size(services: Services, runner: Runner, engine: Recording) -> None:
    run(services, runner, "[oom:model_offload]")
    engine.rungs.clear()
    found = facts(services, run(services, runner, "[oom:model_offload]", seed=8))
    assert engine.rungs == ["model_offload"]
    assert "before" in found["rung_why"]
    engine.rungs.clear()
    run(services, runner, "a red apple", width=128)  # smaller: nothing is known of it
    assert engine.rungs == ["resident"]
    [fit] = [fit for fit in services.fits.of("starter", engine.device) if fit.failed]
    assert (fit.kind, fit.width, fit.worked, fit.failed) == (Kind.TXT2IMG, 256, "model_offload", "block_streaming")


def test_what_a_control_took_says_nothing_about_pictures_without_one(
    services: Services, runner: Runner, engine: Recording
) -> None:
    """And the other way round: a plain picture's peak is not enough for one with a ControlNet."""
    data = io.BytesIO()
    PIL.new("RGB", (256, 256), "red").save(data, "PNG")
    controls = [{"image": services.studio.sources.add(data.getvalue()).id, "type": "canny"}]
    run(services, runner, "[oom:model_offload]", controls=controls)
    assert services.fits.of("starter", engine.device) == []
    for more, rungs in (({}, ["resident"]), ({"controls": controls}, ["model_offload"])):
        engine.rungs.clear()
        run(services, runner, "a red apple", seed=8, **more)
        assert engine.rungs == rungs


def test_only_the_last_rung_fails_the_job_and_says_what_to_try(
    services: Services, runner: Runner, engine: Recording
) -> None:
    job = run(services, runner, "[oom]")
    assert job.failure is not None
    assert (job.state, job.failure.kind) == (State.FAILED, "out_of_memory")
    assert engine.rungs == list(engine.ladder)
    assert "256x256" in job.failure.message
    assert "Try a smaller size" in job.failure.message
    assert run(services, runner, "a red apple", width=128).state is State.DONE


def test_out_of_memory_while_loading_steps_down_too(services: Services, runner: Runner, engine: Recording) -> None:
    engine.fails_to_load = {"resident", "vae_tiling"}
    found = facts(services, run(services, runner, "a red apple"))
    assert found["steps_down"] == ["resident", "vae_tiling"]


def test_other_models_are_put_away_before_a_step_down(services: Services) -> None:
    engine = Recording(others=1)
    engine.fails_to_load = {"resident"}
    opened = open_runner(services, "cpu0", engine, Stop())
    found = facts(services, run(services, opened, "a red apple"))
    opened.close()
    assert engine.rungs == ["resident", "resident", "vae_tiling"]
    assert found["steps_down"] == ["resident"]


def test_a_rung_of_the_settings_is_where_it_begins(services: Services, engine: Recording) -> None:
    forced = replace(services, settings=replace(services.settings, memory="group_offload"))
    opened = open_runner(forced, "cpu0", engine, Stop())
    found = facts(services, run(services, opened, "a red apple"))
    assert (found["rung"], found["rung_why"]) == ("group_offload", "asked for")
    found = facts(services, run(services, opened, "[oom:sequential]", seed=8))
    opened.close()
    assert (found["rung"], found["steps_down"]) == ("sequential", ["group_offload"])


class Streaming(Recording):
    """Blocks of its models come and go; more than ``holds`` bytes of those that stay run out of memory."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds, self.memory = holds, 20 * GIB
        self.rooms: list[int] = []

    def plan(self, *args: Any, **kwargs: Any) -> RungChoice:
        return RungChoice("block_streaming", "a reason", 10 * GIB, 8 * GIB)

    def free(self) -> int:
        return self.memory

    def load(self, model: Model, choice: RungChoice | None = None, on_progress: OnProgress | None = None) -> None:
        assert choice is not None
        self.rooms.append(choice.room)
        super().load(model, choice, on_progress)
        if choice.rung == "block_streaming" and choice.room > self.holds:
            raise OutOfMemory


def test_fewer_blocks_stay_before_a_step_down_and_that_is_remembered(services: Services, phases: list[str]) -> None:
    engine = Streaming(5 * GIB)
    opened = open_runner(services, "cpu0", engine, Stop())
    found = facts(services, run(services, opened, "a red apple"))
    assert engine.rooms == [8 * GIB, 6 * GIB, 4.5 * GIB]
    assert found["rung"] == "block_streaming"
    assert found["rung_why"] == f"a reason; {message('blocks_fewer')}"
    assert "steps_down" not in found
    assert message("phase_stepping_down", how=message("blocks_fewer")) in phases
    engine.rooms.clear()
    found = facts(services, run(services, opened, "a red apple", seed=8))
    assert engine.rooms == [4.5 * GIB]
    assert found["rung_why"] == f"a reason; {message('blocks_fewer')}"
    engine.memory, engine.holds = 30 * GIB, 8 * GIB  # another program has gone
    engine.rooms.clear()
    assert facts(services, run(services, opened, "a red apple", seed=9))["rung_why"] == "a reason"
    opened.close()
    assert engine.rooms == [8 * GIB]


def test_only_where_no_block_stays_is_the_next_rung_taken(services: Services) -> None:
    engine = Streaming(-1)
    opened = open_runner(services, "cpu0", engine, Stop())
    found = facts(services, run(services, opened, "a red apple"))
    opened.close()
    assert engine.rooms[:3] == [8 * GIB, 6 * GIB, 4.5 * GIB]
    assert engine.rooms[-2:] == [0, 0]
    assert len(engine.rooms) == 11
    assert (found["rung"], found["steps_down"]) == ("model_offload", ["block_streaming"])


def test_what_is_known_is_written_once(services: Services, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    run(services, runner, "a red apple")
    monkeypatch.setattr(type(services.fits), "save", lambda self, fit: pytest.fail("nothing new was learned"))
    assert run(services, runner, "a red apple", seed=9).state is State.DONE


def test_loading_shows_how_far_it_is(services: Services, runner: Runner, phases: list[str]) -> None:
    run(services, runner, "a red apple")
    assert [phase for phase in phases if phase.startswith(("loading", "preparing"))] == [
        "loading starter, 0%",
        "preparing starter",
    ]
    phases.clear()
    run(services, runner, "a red apple", seed=8)
    assert not any(phases)
