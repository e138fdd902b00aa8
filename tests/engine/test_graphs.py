"""Graphs of a denoiser, with a recorder that replays by running again: what is recorded when, and what ends it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_local.db.database import Database
from diffusion_local.engine.cuda_recording import SyncDetector
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.graphs import (
    MAX_GRAPHS_PER_PART,
    Graphs,
    NotRecordable,
    denoiser_of,
    map_tensors,
    signature,
)
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import RungChoice
from diffusion_local.errors import OutOfMemory, Stopped
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from diffusion_local.queue.history import FitStore
from diffusion_local.worker.ladder import Ladder
from tests.engine.conftest import Draw, run_on_ladder
from tests.engine.home import Home, make_lora
from tests.support import params


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


class Recorder:
    """Each recording takes 1000 bytes; a replay runs the function anew and writes into the same tensors."""

    def __init__(self) -> None:
        self.bytes = 0
        self.tried = self.recorded = self.replayed = self.cleared = 0
        self.problem = ""
        self.error: Exception | None = None

    def try_out(self, run: Callable[[], Any], watched: bool) -> tuple[Any, str]:
        self.tried += 1
        with SyncDetector("cuda") if watched else nullcontext():
            return run(), self.problem

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.error:
            raise self.error
        self.recorded += 1
        self.bytes += 1000
        output = map_tensors(run(), torch.clone)

        def replay() -> None:
            self.replayed += 1
            fresh: list[torch.Tensor] = []
            signature(run(), fresh)
            held: list[torch.Tensor] = []
            signature(output, held)
            for there, now in zip(held, fresh, strict=True):
                there.copy_(now)

        return replay, output

    def paced(self) -> Any:
        return nullcontext()

    def clear(self) -> None:
        self.cleared += 1
        self.bytes = 0


class Denoiser(torch.nn.Module):
    """Counts the runs of its Python code."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.factor = 2.0

    def forward(self, sample: Any, timestep: Any, added: Any = None, return_dict: bool = False) -> Any:
        self.runs += 1
        extra = added["text"].sum() if added else 0
        return (sample * self.factor + timestep + extra,)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def graphs(recorder: Recorder) -> Graphs:
    return Graphs(recorder)


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser()


def call(denoiser: Denoiser, value: float, size: int = 4, **more: Any) -> torch.Tensor:
    result: torch.Tensor = denoiser(torch.full((1, size), value), torch.tensor(value), **more)[0]
    return result


def test_a_signature_is_tried_then_recorded_then_replayed(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser
) -> None:
    with graphs.around(denoiser, 10_000, 1000):
        results = [call(denoiser, value) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [result.unique().item() for result in results] == [3.0, 6.0, 9.0, 12.0]  # none was written over
    assert (recorder.tried, recorder.recorded, recorder.replayed) == (1, 1, 3)
    assert graphs.replayed
    assert "forward" not in denoiser.__dict__
    with graphs.around(denoiser, 10_000, 1000):
        assert call(denoiser, 5.0).unique().item() == 15.0
    assert (recorder.tried, recorder.recorded, recorder.replayed) == (1, 1, 4)


def test_other_shapes_types_and_values_are_other_signatures(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser
) -> None:
    text = {"text": torch.ones(3)}
    with graphs.around(denoiser, 10_000, 1000):
        for _ in range(3):
            assert call(denoiser, 1.0).shape == (1, 4)
            assert call(denoiser, 1.0, 8).shape == (1, 8)
            assert call(denoiser, 1.0, added=text).unique().item() == 6.0
            assert call(denoiser, 1.0, return_dict=True).unique().item() == 3.0
            assert denoiser(torch.ones(1, 4), torch.tensor(1))[0].unique().item() == 3.0
    assert (recorder.tried, recorder.recorded, recorder.replayed) == (5, 5, 10)


def test_tensors_in_dicts_are_read_anew(graphs: Graphs, denoiser: Denoiser) -> None:
    with graphs.around(denoiser, 10_000, 1000):
        results = [call(denoiser, 0.0, added={"text": torch.full((3,), value)}).max().item() for value in (1, 2, 3, 4)]
    assert results == [3, 6, 9, 12]


def test_the_signatures_used_longest_ago_are_dropped(graphs: Graphs, recorder: Recorder, denoiser: Denoiser) -> None:
    with graphs.around(denoiser, 100_000, 1000):
        for size in range(1, MAX_GRAPHS_PER_PART + 2):
            call(denoiser, 1.0, size)
            call(denoiser, 1.0, size)
        call(denoiser, 1.0, 2)
        assert recorder.recorded == MAX_GRAPHS_PER_PART + 1
        call(denoiser, 1.0, 1)
    assert recorder.recorded == MAX_GRAPHS_PER_PART + 2


def test_without_room_it_runs_as_ever(graphs: Graphs, recorder: Recorder, denoiser: Denoiser) -> None:
    for room, expected in ((0, 1000), (999, 1000)):
        with graphs.around(denoiser, room, expected):
            for _ in range(3):
                call(denoiser, 1.0)
        assert not graphs.replayed
    assert (recorder.tried, recorder.recorded) == (0, 0)


def test_graphs_go_when_their_room_is_needed(graphs: Graphs, recorder: Recorder, denoiser: Denoiser) -> None:
    with graphs.around(denoiser, 1000, 500):
        call(denoiser, 1.0)
        call(denoiser, 1.0)
    assert graphs.bytes == 1000
    with graphs.around(denoiser, 900, 1000):
        assert graphs.bytes == 0
        call(denoiser, 1.0)
    assert recorder.cleared == 1
    assert not graphs.replayed


def test_one_that_holds_more_than_there_is_is_not_kept(graphs: Graphs, recorder: Recorder, denoiser: Denoiser) -> None:
    with graphs.around(denoiser, 900, 500):
        results = [call(denoiser, 1.0) for _ in range(4)]
    assert {result.unique().item() for result in results} == {3.0}
    assert (recorder.recorded, recorder.replayed, graphs.bytes) == (1, 0, 0)


def test_decoding_has_a_graph_where_there_is_room(graphs: Graphs, recorder: Recorder, denoiser: Denoiser) -> None:
    runs: list[int] = []

    def decoder(latents: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return latents + 1

    def decoded(room: int, decoding: int) -> torch.Tensor:
        with graphs.around(denoiser, room, 10, decoding=decoding):
            return graphs.decode(decoder, torch.ones(2))

    for room, decoding in ((0, 10), (1000, 1001)):
        for _ in range(3):
            assert decoded(room, decoding).tolist() == [2, 2]
    assert (len(runs), recorder.replayed) == (6, 0)
    for _ in range(4):
        assert decoded(1000, 1000).tolist() == [2, 2]
    assert recorder.replayed == 3
    assert not graphs.replayed  # denoising had none


def test_after_a_change_of_the_weights_it_is_recorded_anew(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser
) -> None:
    assert not graphs.forget()
    for factor in (2.0, 3.0):
        denoiser.factor = factor
        with graphs.around(denoiser, 10_000, 1000):
            assert {call(denoiser, 1.0).max().item() for _ in range(3)} == {factor + 1}
        assert graphs.forget()
    assert (recorder.recorded, recorder.cleared) == (2, 2)


def test_what_cannot_be_recorded_runs_as_ever_and_is_told_once(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.error = RuntimeError("operation not permitted when stream is capturing\nmore")
    with caplog.at_level(logging.WARNING), graphs.around(denoiser, 10_000, 1000):
        assert {call(denoiser, 1.0).max().item() for _ in range(4)} == {3.0}
    [result] = caplog.messages
    assert result == (
        "the denoiser runs without a CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    )
    recorder.error = None
    with graphs.around(denoiser, 10_000, 1000):
        call(denoiser, 1.0)
    assert (recorder.tried, recorder.recorded) == (1, 0)


def test_what_waits_for_the_device_is_not_recorded(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.problem = "aten::nonzero makes the CPU wait for the device"
    with caplog.at_level(logging.WARNING), graphs.around(denoiser, 10_000, 1000):
        assert {call(denoiser, 1.0).max().item() for _ in range(4)} == {3.0}
    assert (recorder.tried, recorder.recorded, len(caplog.messages)) == (1, 0, 1)


def test_a_timestep_that_is_a_number_is_not_recorded(
    graphs: Graphs, recorder: Recorder, denoiser: Denoiser, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), graphs.around(denoiser, 10_000, 1000):
        assert [denoiser(torch.zeros(1), step)[0].item() for step in (1.0, 2.0, 3.0, 1.0, 2.0)] == [1, 2, 3, 1, 2]
    assert (recorder.tried, len(caplog.messages)) == (0, 1)


def test_other_results_than_tuples_are_not_recorded(graphs: Graphs, recorder: Recorder) -> None:
    class Named(Denoiser):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return {"sample": super().forward(*args, **kwargs)[0], "steps": 3}

    denoiser = Named()
    with graphs.around(denoiser, 10_000, 1000):
        for _ in range(3):
            assert denoiser(torch.ones(1), torch.tensor(1.0))["sample"].item() == 3.0
    assert (recorder.replayed, graphs.bytes) == (0, 0)


def test_an_error_of_the_model_is_its_own(graphs: Graphs, denoiser: Denoiser) -> None:
    class Broken(Denoiser):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    broken = Broken()
    with pytest.raises(torch.OutOfMemoryError), graphs.around(broken, 10_000, 1000):
        call(broken, 1.0)
    assert "forward" not in broken.__dict__


def test_a_forward_that_was_there_is_put_back(graphs: Graphs, denoiser: Denoiser) -> None:
    def mine(sample: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (sample * 10,)

    denoiser.forward = mine
    with graphs.around(denoiser, 10_000, 1000):
        assert denoiser.forward is not mine
        assert call(denoiser, 1.0).max().item() == 10
    assert denoiser.forward is mine


def test_without_a_recorder_there_are_none(denoiser: Denoiser) -> None:
    graphs = Graphs()
    with graphs.around(denoiser, 10_000, 1000):
        assert "forward" not in denoiser.__dict__
    assert (graphs.bytes, graphs.replayed, graphs.forget()) == (0, False, False)


def test_a_signature_names_what_it_does_not_know() -> None:
    with pytest.raises(NotRecordable, match="gives a int"):
        signature({"a": [1]}, [])
    with pytest.raises(NotRecordable, match="gives a Denoiser"):
        signature((Denoiser(),), [])


# -- in the engine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recorders() -> list[Recorder]:
    return []


@pytest.fixture
def engine(recorders: list[Recorder], at_home: Home) -> Iterator[DiffusersEngine]:
    """On the CPU, with a recorder for each model."""
    opened = DiffusersEngine(
        at_slot("cpu0"), threads=1, materials=PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    opened._cache._recorder = lambda: (recorders.append(Recorder()), recorders[-1])[1]
    yield opened
    opened.unload()


@pytest.fixture
def plain(diffusers_engine: DiffusersEngine) -> Draw:
    return Draw(diffusers_engine)


def test_the_same_picture_with_graphs_and_without(
    engine: DiffusersEngine, starter: Model, plain: Draw, recorders: list[Recorder]
) -> None:
    engine.load(starter)
    for sampler in ("Euler", "UniPC", "Heun"):
        options = {"steps": 4, "sampler": sampler}
        picture, expected = Draw(engine)(**options), plain(**options)
        assert picture.image.tobytes() == expected.image.tobytes(), sampler
        assert picture.facts["cuda_graph"] is True
        assert "cuda_graph" not in expected.facts
    assert recorders[0].replayed > 10


def test_a_step_is_told_of_each_time_and_a_cancel_ends_the_picture(engine: DiffusersEngine, starter: Model) -> None:
    engine.load(starter)
    draw = Draw(engine)
    full = draw(steps=4).image.tobytes()
    assert draw.steps == [1, 2, 3, 4]

    def stop(step: int, preview: Any) -> None:
        if step == 2:
            raise Stopped("cancel")

    with pytest.raises(Stopped):
        engine.generate(params(steps=4), stop)
    assert engine._loaded is not None
    assert "forward" not in denoiser_of(engine._loaded.pipe).__dict__
    assert draw(steps=4).image.tobytes() == full


def test_a_lora_and_another_rung_end_the_graphs(
    engine: DiffusersEngine, starter: Model, plain: Draw, at_home: Home, recorders: list[Recorder]
) -> None:
    engine.load(starter)
    assert engine._loaded is not None
    make_lora(Path(at_home.settings.loras) / "ink.safetensors", engine._loaded.pipe.unet)
    draw = Draw(engine)
    bare = draw(steps=3).image.tobytes()
    inked = draw(steps=3, loras=(Lora("ink"),)).image.tobytes()
    half = draw(steps=3, loras=(Lora("ink", 0.5),)).image.tobytes()
    assert len({bare, inked, half}) == 3
    assert draw(steps=3, loras=(Lora("ink"),)).image.tobytes() == inked
    assert draw(steps=3).image.tobytes() == bare == plain(steps=3).image.tobytes()
    assert recorders[0].cleared == 4
    engine.load(starter, RungChoice("vae_tiling"))
    assert recorders[0].cleared == 5
    assert draw(steps=3).facts["cuda_graph"]


def test_there_are_none_where_weights_move(engine: DiffusersEngine, starter: Model, recorders: list[Recorder]) -> None:
    engine.load(starter, RungChoice("attention_slicing"))
    assert "cuda_graph" not in Draw(engine)(steps=3).facts
    assert recorders[0].tried == 0


@pytest.mark.slow
def test_there_are_none_without_room(
    engine: DiffusersEngine, trained: Model, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(trained)
    monkeypatch.setattr(engine._gauge, "free", lambda: 200 * 2**20)
    assert "cuda_graph" not in Draw(engine)(steps=3).facts
    monkeypatch.setattr(engine._gauge, "free", lambda: 4 * 2**30)
    assert Draw(engine)(steps=3).facts["cuda_graph"]


def test_after_an_out_of_memory_the_same_rung_is_tried_without_graphs(
    engine: DiffusersEngine,
    starter: Model,
    plain: Draw,
    database: Database,
    recorders: list[Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.load(starter)
    assert engine._loaded is not None
    decode = engine._loaded.pipe.vae.decode

    def full(*args: Any, **kwargs: Any) -> Any:
        if recorders[0].bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*args, **kwargs)

    monkeypatch.setattr(engine._loaded.pipe.vae, "decode", full)
    fits = FitStore(database)
    requested = params(steps=4)
    ladder = Ladder(engine, fits.of, fits.save, "auto")
    picture = run_on_ladder(ladder, starter, requested)
    assert picture.facts["rung"] == "resident"
    assert "steps_down" not in picture.facts
    assert "cuda_graph" not in picture.facts
    assert picture.image.tobytes() == plain(steps=4).image.tobytes()
    assert "cuda_graph" not in Draw(engine)(steps=4).facts  # nor the next time
    with pytest.raises(OutOfMemory):  # another size is another graph
        Draw(engine)(steps=4, width=192)


def test_other_models_give_their_graphs_before_they_go(
    engine: DiffusersEngine, starter: Model, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    engine.load(starter)
    Draw(engine)(steps=3)
    assert recorders[0].bytes
    engine.load(replace(starter, id="other"))
    monkeypatch.setattr(engine._gauge, "free", lambda: 500)
    engine.load(starter, RungChoice("resident", takes=engine._cache._held["starter"].bytes))
    assert recorders[0].bytes == 0
    assert list(engine._cache._held) == ["other", "starter"]
