"""Pictures in halves of guidance, with the CPU as both GPUs: a helper changes no pixel, whenever it comes or goes."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_local.domain import Kind, Params
from diffusion_local.engine import Part, Pass, Picture
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.halves import Replica, copied_to, divisible
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from tests.engine.test_graphs import Recorder
from tests.support import PARAMS, tiers

CHANGED = replace(PARAMS, steps=4, width=64, height=64)


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@dataclass
class Lent:
    """A helper that is there for the numbered denoiser calls."""

    calls: set[int]
    asked: int = 0
    refusals: int = 0
    engine: DiffusersEngine | None = None
    there: list[bool] = field(default_factory=list)

    def slot(self) -> str:
        self.asked += 1
        if self.engine is not None:
            self.there.append(self.engine._halver._replica is not None)
        return "cpu1" if self.asked in self.calls and not self.refusals else ""

    def refuse(self) -> None:
        self.refusals += 1


@pytest.fixture(scope="module", params=tiers(["exact", "fast"], first=["exact"]))
def engine(request: pytest.FixtureRequest, starter: Model) -> Iterator[DiffusersEngine]:
    """By itself, and with fused forms of plain torch that run by graphs."""
    engine = DiffusersEngine(at_slot("cpu0"), threads=1)
    if request.param == "fast":
        engine._cache._operations = engine._halver._operations = TorchOperations()
        engine._cache._recorder = Recorder
        engine._halver._recorder_of = lambda device: Recorder()
    engine.load(starter)
    loaded = engine._loaded
    assert loaded is not None
    for each in loaded.pipe.unet.parameters():  # mapped files are not aligned, on which products of a CPU depend
        each.data = each.data.clone()
    yield engine
    engine.unload()


def drawn(engine: DiffusersEngine, helper: Lent | None = None, **changes: Any) -> Picture:
    part = Part(replace(CHANGED, **changes), lambda step, preview: None)
    engine.run(Pass([part], helper=helper))
    return part.result()


def pixels(picture: Picture) -> bytes:
    return picture.image.tobytes()


@pytest.mark.parametrize("engine", ["exact", "fast"], indirect=True)
def test_the_pixels_do_not_depend_on_the_helper(engine: DiffusersEngine) -> None:
    alone = drawn(engine, gpus=2)
    assert (alone.facts["gpus"], alone.facts["helped_steps"]) == (2, 0)
    for calls in ({1, 2, 3, 4}, {2, 3}):
        helped = drawn(engine, Lent(calls))
        assert helped.facts["helped_steps"] == len(calls)
        assert pixels(helped) == pixels(alone)
        assert helped.facts["speed"] == alone.facts["speed"]


def test_halves_differ_from_a_whole_batch_by_rounding_only(engine: DiffusersEngine) -> None:
    whole, halves = drawn(engine), drawn(engine, gpus=2)
    assert "gpus" not in whole.facts
    difference = np.abs(np.asarray(whole.image, int) - np.asarray(halves.image, int))
    assert difference.max() <= 4


def test_a_helper_that_fails_is_refused_and_the_picture_goes_on(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, helper, call = drawn(engine, gpus=2), Lent({1, 2, 3, 4}), Replica._call

    def failing(self: Replica, *args: Any) -> Any:
        if helper.asked == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, *args)

    monkeypatch.setattr(Replica, "_call", failing)
    helped = drawn(engine, helper)
    assert (helper.refusals, helped.facts["helped_steps"]) == (1, 2)
    assert pixels(helped) == pixels(alone)
    assert engine._halver._replica is None


def test_a_copy_that_runs_by_other_code_is_refused(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Lent({1, 2, 3, 4})
    monkeypatch.setattr(Replica, "path", property(lambda self: ("other", False)))
    helped = drawn(engine, helper)
    assert (helper.refusals, helped.facts["helped_steps"]) == (1, 0)
    assert pixels(helped) == pixels(drawn(engine, gpus=2))


def test_the_copy_is_kept_for_the_next_picture_and_follows_the_weights(engine: DiffusersEngine) -> None:
    drawn(engine, Lent({1, 2, 3, 4}))
    first = engine._halver._replica
    drawn(engine, Lent({1, 2, 3, 4}), prompt="a blue boat")
    assert engine._halver._replica is first
    assert first is not None
    loaded = engine._loaded
    assert loaded is not None
    loaded.weights_change()
    weight = next(loaded.pipe.unet.parameters())
    before = weight.detach().clone()
    try:
        weight.data.mul_(1.5)
        changed = drawn(engine, gpus=2)
        assert pixels(drawn(engine, Lent({1, 2, 3, 4}))) == pixels(changed)
    finally:
        loaded.weights_change()
        weight.data.copy_(before)
    assert engine._halver._replica is not first


def test_the_memory_of_a_helper_is_free_once_it_leaves(engine: DiffusersEngine) -> None:
    helper = Lent({1, 2}, engine=engine)
    drawn(engine, helper)
    assert helper.there[1:] == [True, True, False]
    drawn(engine, Lent({1, 2, 3, 4}))
    assert engine._halver._replica is not None
    engine.drop_helper()
    assert engine._halver._replica is None


def test_a_held_pass_continues_in_halves_without_its_helper(engine: DiffusersEngine) -> None:
    steps: list[int] = []
    part = Part(CHANGED, lambda step, preview: steps.append(step))
    crew = Pass([part], lambda: steps[-1] == 2, helper=Lent({1, 2}))
    engine.run(crew)
    assert crew.held is not None
    restored = engine.restore_held(engine.serialize_held(crew.held))
    again = Pass([Part(CHANGED, lambda step, preview: None)], size=1, held=restored)
    engine.run(again)
    assert again.parts[0].result().facts["gpus"] == 2
    assert pixels(again.parts[0].result()) == pixels(drawn(engine, gpus=2))


def test_only_single_pictures_with_guidance_are_made_in_halves(engine: DiffusersEngine) -> None:
    helper = Lent({1, 2, 3, 4})
    assert "gpus" not in drawn(engine, helper, guidance=1.0).facts
    parts = [Part(replace(CHANGED, seed=seed), lambda step, preview: None) for seed in (1, 2)]
    engine.run(Pass(parts, helper=helper))
    assert all("gpus" not in part.result().facts for part in parts)
    assert helper.asked == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"guidance": 1.0}, False),
        ({"loras": (Lora("ink", 1.0),)}, False),
        ({"kind": Kind.UPSCALE, "source": "0" * 64}, False),
    ],
)
def test_which_params_can_be_made_in_halves(changes: dict[str, Any], expected: bool) -> None:
    assert divisible(replace(CHANGED, **changes)) == expected


def test_the_need_of_a_helper_covers_a_copy_of_the_denoiser(engine: DiffusersEngine, starter: Model) -> None:
    loaded = engine._loaded
    assert loaded is not None
    weights = sum(each.nbytes for each in loaded.pipe.unet.parameters())
    assert engine.helper_bytes(starter, CHANGED) > weights
    assert engine.helper_bytes(starter, replace(CHANGED, guidance=1.0)) == 0


def test_room_for_another_process_is_made_by_unloading(starter: Model) -> None:
    engine = DiffusersEngine(at_slot("cpu0"), threads=1)
    engine.load(starter)
    assert engine.make_room(1)
    assert engine.loaded
    assert not engine.make_room(2**60)
    assert not engine.loaded


def test_a_copy_shares_nothing_with_the_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    module.forward = lambda *args: None  # type: ignore[method-assign]
    copied = copied_to(module, "cpu")
    tensors = [*module.parameters(), *module.buffers()], [*copied.parameters(), *copied.buffers()]
    assert all(torch.equal(one, other) for one, other in zip(*tensors, strict=True))
    assert not {each.data_ptr() for each in tensors[0]} & {each.data_ptr() for each in tensors[1]}
    assert "forward" not in vars(copied)


def test_params_of_one_gpu_are_the_default() -> None:
    assert Params("a", "", "starter", 64, 64, 1, 5.0, "Euler", 1).gpus == 1
