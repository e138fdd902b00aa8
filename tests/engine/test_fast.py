"""Pictures by fused forms, here of plain torch on the CPU: they differ from exact ones by rounding alone."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_local.domain import Kind
from diffusion_local.engine import painting
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.fused import operations
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import RungChoice
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.fused.models import difference
from tests.engine.home import Home, make_lora
from tests.engine.test_graphs import Recorder

SOURCE = {"kind": Kind.IMG2IMG, "strength": 0.6}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def engines(at_home: Home, starter: Model) -> Iterator[dict[str, DiffusersEngine]]:
    """One that is exact, and one that is fast and runs by graphs."""
    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    opened = {name: DiffusersEngine(at_slot("cpu0"), threads=1, materials=materials) for name in ("exact", "fast")}
    opened["fast"]._cache._operations = TorchOperations()
    opened["fast"]._cache._recorder = Recorder
    for engine in opened.values():
        engine.load(starter)
    yield opened
    for engine in opened.values():
        engine.unload()


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Of each picture before it is decoded."""
    found: list[torch.Tensor] = []
    decode = painting.decode
    monkeypatch.setattr(
        painting, "decode", lambda loaded, latents, *rest: (found.append(latents), decode(loaded, latents, *rest))[1]
    )
    return found


def compared(engines: dict[str, DiffusersEngine], latents: list[torch.Tensor], **wanted: Any) -> dict[str, Any]:
    """Facts of the fast picture, which is as good as the exact one."""
    latents.clear()
    exact, fast = (Draw(engines[name])(**wanted) for name in ("exact", "fast"))
    assert difference(latents[1], latents[0]) < 2e-3
    apart = np.abs(np.asarray(exact.image, np.int16) - np.asarray(fast.image, np.int16))
    assert apart.max() <= 2
    assert exact.facts["speed"] == "exact"
    assert "fused" not in exact.facts
    return fast.facts


def is_fast(facts: dict[str, Any]) -> bool:
    return (facts["speed"], facts.get("fused")) == ("fast", ["denoiser", "decoder (float32)"])


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Heun"])
@pytest.mark.slow  # the test below makes a picture from text too
def test_text_to_image(engines: dict[str, DiffusersEngine], latents: list[torch.Tensor], sampler: str) -> None:
    for guidance in (5.0, 1.0):
        facts = compared(engines, latents, steps=4, sampler=sampler, guidance=guidance)
        assert facts["cuda_graph"]
        assert is_fast(facts)


def test_every_kind_of_work(engines: dict[str, DiffusersEngine], latents: list[torch.Tensor], at_home: Home) -> None:
    changes = {"source": at_home.source, "strength": 0.6, "steps": 4}
    for kind in (changes | {"kind": Kind.IMG2IMG}, changes | {"kind": Kind.INPAINT, "mask": at_home.mask}):
        assert is_fast(compared(engines, latents, **kind))
    assert is_fast(compared(engines, latents, steps=3, width=192))


@pytest.mark.slow
def test_loras_are_packed_anew_and_leave_no_trace(
    engines: dict[str, DiffusersEngine], latents: list[torch.Tensor], at_home: Home
) -> None:
    held = engines["exact"]._loaded
    assert held is not None
    make_lora(at_home.settings.loras / "ink.safetensors", held.pipe.unet)
    bare = Draw(engines["fast"])(steps=3).image.tobytes()
    inked = []
    for loras in ((Lora("ink"),), (Lora("ink", 0.5),), (Lora("ink"),)):
        assert is_fast(compared(engines, latents, steps=3, loras=loras))
        inked.append(Draw(engines["fast"])(steps=3, loras=loras).image.tobytes())
    assert inked[0] == inked[2]
    assert len({bare, *inked}) == 3
    assert Draw(engines["fast"])(steps=3).image.tobytes() == bare


def test_without_room_for_packed_loras_a_picture_is_made_the_exact_way(
    engines: dict[str, DiffusersEngine], at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = engines["fast"]._loaded
    assert held is not None
    make_lora(at_home.settings.loras / "ink.safetensors", held.pipe.unet)
    monkeypatch.setattr(engines["fast"]._cache, "room_for_graphs", lambda need: 0)
    facts = Draw(engines["fast"])(steps=2, loras=(Lora("ink"),)).facts
    assert facts["fused"] == ["decoder (float32)"]
    assert is_fast(Draw(engines["fast"])(steps=2).facts)


@pytest.mark.slow
def test_other_rungs(engines: dict[str, DiffusersEngine], starter: Model) -> None:
    fast, exact = Draw(engines["fast"]), Draw(engines["exact"])
    first = fast(steps=2).image.tobytes()
    for rung, fused in (("vae_tiling", ["denoiser", "decoder (float32)"]), ("attention_slicing", None)):
        for engine in engines.values():
            engine.load(starter, RungChoice(rung))
        assert fast(steps=2).facts.get("fused") == fused
    assert fast(steps=2).image.tobytes() == exact(steps=2).image.tobytes()  # nothing of the fused form is left
    engines["fast"].load(starter, RungChoice("resident"))
    assert fast(steps=2).image.tobytes() == first


def test_text_encoders_run_by_graphs_to_the_same_pictures(starter: Model, at_home: Home) -> None:
    engine = DiffusersEngine(
        at_slot("cpu0"), threads=1, materials=PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    recorder = Recorder()
    engine._cache._recorder = lambda: recorder
    engine.load(starter)
    draw, seen = Draw(engine), []
    for number in range(4):
        assert engine._loaded is not None
        engine._loaded.prompts.clear()
        seen.append(draw(steps=1, prompt=f"apple {number % 2}", clip_skip=number // 2 % 2).image.tobytes())
    parts = {part for part, _ in engine._loaded.graphs._recorded}
    assert "text_encoder" in parts
    plain = DiffusersEngine(
        at_slot("cpu0"), threads=1, materials=PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    plain.load(starter)
    again = [Draw(plain)(steps=1, prompt=f"apple {n % 2}", clip_skip=n // 2 % 2).image.tobytes() for n in range(4)]
    assert seen == again
    for each in (engine, plain):
        each.unload()


@pytest.mark.parametrize(
    ("capability", "why"),
    [((7, 5), "need compute capability 8.0 or later"), ((9, 0), "Triton cannot be imported")],
)
def test_a_gpu_that_cannot_says_why_once(
    capability: tuple[int, int], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setitem(__import__("sys").modules, "triton", None)
    found, problem = operations.available(torch.device("cuda:0"))
    assert found is None
    assert why in problem


def test_a_device_that_is_no_gpu_is_exact_without_a_word(caplog: pytest.LogCaptureFixture, starter: Model) -> None:
    with caplog.at_level(logging.INFO):
        engine = DiffusersEngine(at_slot("cpu0"), threads=1, speed="fast")
        engine.load(starter)
        assert Draw(engine)(steps=1).facts["speed"] == "exact"
    assert "exact" not in caplog.text
    engine.unload()
