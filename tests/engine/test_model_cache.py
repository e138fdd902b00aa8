"""Several models in memory, rungs changed in place, and the ladder over the engine that runs diffusers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from diffusion_local.db.database import Database
from diffusion_local.engine import placement
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.memory import RungChoice
from diffusion_local.errors import ModelUnavailable, OutOfMemory, Stopped, UserError
from diffusion_local.models.catalog import Model
from diffusion_local.queue.history import FitStore
from diffusion_local.worker.ladder import Ladder
from tests.engine.conftest import Draw, run_on_ladder
from tests.support import PARAMS, params


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def engine() -> Iterator[DiffusersEngine]:
    """One of its own, with nothing in memory."""
    opened = DiffusersEngine(at_slot("cpu0"))
    yield opened
    opened.unload()


@pytest.fixture
def other(starter: Model) -> Model:
    return replace(starter, id="other")


def held(engine: DiffusersEngine) -> list[str]:
    return list(engine._cache._held)


def with_free(monkeypatch: pytest.MonkeyPatch, engine: DiffusersEngine, room: int) -> None:
    """Let the device have ``room`` bytes, less what the models in memory take."""
    monkeypatch.setattr(
        engine._cache._gauge, "free", lambda: room - sum(each.bytes for each in engine._cache._held.values())
    )


def test_models_stay_side_by_side_and_a_switch_loads_nothing(
    engine: DiffusersEngine, starter: Model, other: Model
) -> None:
    reports: list[float] = []
    engine.load(starter, on_progress=reports.append)
    assert reports[0] == 0.0
    assert reports[-1] == 1.0
    assert reports == sorted(reports)
    assert len(reports) > 2  # of the parts, and of the end
    engine.load(other)
    assert (engine.loaded, held(engine)) == ("other", ["starter", "other"])
    reports.clear()
    engine.load(starter, on_progress=reports.append)
    assert reports == []
    assert (engine.loaded, held(engine)) == ("starter", ["other", "starter"])
    Draw(engine)(steps=1)


def test_the_one_used_longest_ago_goes_first_and_only_for_room(
    engine: DiffusersEngine, starter: Model, other: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = replace(starter, id="third")
    engine.load(starter)
    size = engine._cache._held["starter"].bytes
    assert size > 1_000_000
    with_free(monkeypatch, engine, int(2.5 * size))
    engine.load(other, RungChoice("resident", takes=size))
    assert held(engine) == ["starter", "other"]
    engine.load(starter, RungChoice("resident", takes=size))
    engine.load(third, RungChoice("resident", takes=size))
    assert held(engine) == ["starter", "third"]
    engine.load(third, RungChoice("resident", takes=int(2.2 * size)))  # a larger picture
    assert held(engine) == ["third"]


def test_all_but_the_loaded_one_can_be_put_away(engine: DiffusersEngine, starter: Model, other: Model) -> None:
    engine.load(starter)
    assert not engine.free_caches()
    engine.load(other)
    assert engine.free() > 0
    assert engine.free_caches()
    assert held(engine) == ["other"]


def test_a_rung_is_changed_in_place_where_that_is_possible(engine: DiffusersEngine, starter: Model) -> None:
    reports: list[float] = []
    engine.load(starter)
    assert engine._loaded is not None
    pipe = engine._loaded.pipe
    full = Draw(engine)(steps=2).image
    engine.load(starter, RungChoice("vae_tiling"), reports.append)
    assert engine._loaded.pipe is pipe
    assert pipe.vae.use_tiling
    engine.load(starter, RungChoice("resident"), reports.append)
    assert not pipe.vae.use_tiling
    assert Draw(engine)(steps=2).image.tobytes() == full.tobytes()
    assert reports == []
    engine.load(starter, RungChoice("attention_slicing"), reports.append)
    engine.load(starter, RungChoice("resident"), reports.append)  # sliced attention does not turn back: loaded again
    assert engine._loaded.pipe is not pipe
    assert reports[-1] == 1.0
    assert Draw(engine)(steps=2).image.tobytes() == full.tobytes()


def test_tiles_are_smaller_than_the_picture(engine: DiffusersEngine, starter: Model) -> None:
    """diffusers' own tile is the size that the VAE was trained at, which saves nothing there."""
    engine.load(starter, RungChoice("vae_tiling"))
    assert engine._loaded is not None
    vae = engine._loaded.pipe.vae
    assert vae.tile_sample_min_size == 512
    assert vae.tile_latent_min_size == 512 // engine._loaded.pipe.vae_scale_factor


def test_loading_can_be_stopped_between_two_parts(engine: DiffusersEngine, starter: Model) -> None:
    def stop(share: float) -> None:
        if share > 0:
            raise Stopped("cancel")

    with pytest.raises(Stopped):
        engine.load(starter, on_progress=stop)
    assert (engine.loaded, held(engine)) == ("", [])
    engine.load(starter)
    Draw(engine)(steps=1)


def test_no_memory_while_loading_is_named_and_leaves_nothing(
    engine: DiffusersEngine, starter: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(placement, "place", fail)
        with pytest.raises(OutOfMemory):
            engine.load(starter)
    assert engine.loaded == ""
    engine.load(starter)


def test_a_damaged_model_does_not_cost_the_one_in_memory(
    engine: DiffusersEngine, starter: Model, starter_copy: Callable[[], Model]
) -> None:
    engine.load(starter)
    damaged = starter_copy()
    (damaged.folder / "unet" / "config.json").unlink()
    with pytest.raises(ModelUnavailable):
        engine.load(damaged)
    assert engine.loaded == "starter"


def test_a_precision_that_the_device_only_emulates_is_refused() -> None:
    with pytest.raises(UserError, match="precision: fp16 is emulated"):
        DiffusersEngine(at_slot("cpu0"), numbers="fp16")


def test_bf16_can_be_asked_for_and_a_seed_repeats_in_it(starter: Model) -> None:
    engine = DiffusersEngine(at_slot("cpu0"), numbers="bf16")
    engine.load(starter)
    first, again = Draw(engine)(steps=2), Draw(engine)(steps=2)
    assert first.facts["dtype"] == "bfloat16"
    assert first.image.tobytes() == again.image.tobytes()


# -- the ladder ------------------------------------------------------------------------------------------------------


def test_a_pipeline_that_runs_out_of_memory_once_steps_down_and_ends(
    engine: DiffusersEngine, starter: Model, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, messages = FitStore(database), []
    ladder = Ladder(engine, fits.of, fits.save, "auto")
    engine.load(starter)
    assert engine._loaded is not None
    forward, calls = engine._loaded.pipe.unet.forward, []

    def once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # in the middle of the picture
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._loaded.pipe.unet, "forward", once)
    steps: list[int] = []

    expected = params(steps=3)
    picture = run_on_ladder(ladder, starter, expected, steps, messages.append)
    assert picture.facts["rung"] == "vae_tiling"
    assert picture.facts["steps_down"] == ["resident"]
    assert messages == ["using less memory: the picture is decoded in tiles"]
    assert steps == [1, 2, 3]  # from the start
    [fit] = fits.of("starter", engine.device)
    assert (fit.worked, fit.failed) == ("vae_tiling", "resident")
    assert engine.plan(starter, expected, [fit]).rung == "vae_tiling"
    assert Draw(engine)(steps=3).image.tobytes() == picture.image.tobytes()  # tiles of 512 leave a small picture whole
    assert PARAMS.seed == expected.seed
