"""Denoisers whose weights are kept in fewer bits than they are computed in."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import ImageChops

from diffusion_local.domain import DeviceMemory, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.devices import Device
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import GIB
from diffusion_local.engine.placement import bytes_of
from diffusion_local.engine.planning import plan, plan_words
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import Source
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora
from tests.support import tiers


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def eight_bits() -> DiffusersEngine:
    return DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1, numbers="fp8")


def test_weights_in_eight_bits_draw_nearly_the_same_and_the_recipe_says_so(
    eight_bits: DiffusersEngine, diffusers_engine: DiffusersEngine, starter: Model
) -> None:
    pictures = []
    for engine in (eight_bits, diffusers_engine):
        engine.load(starter)
        pictures.append(Draw(engine)(steps=2))
    assert (pictures[0].facts["weights"], pictures[0].facts["dtype"]) == ("fp8", "float32")
    assert "weights" not in pictures[1].facts
    first, second = (torch.frombuffer(bytearray(each.image.tobytes()), dtype=torch.uint8) for each in pictures)
    assert 0 < (first.float() - second.float()).abs().mean() < 20


def of_size(starter: Model, tmp_path: Path, container: str, size: int) -> Model:
    counts = {"transformer": 12 * 10**9, "text_encoder": 10**9, "vae": 10**8}
    sources = tuple(
        Source(slot, "denoiser" if slot == "transformer" else slot, tmp_path / slot, container=container,
               precision="Q8_0" if container == "gguf" else "bf16", count=count, size=size)
        for slot, count in counts.items()
    )  # fmt: skip
    return replace(starter, family="flux", sources=sources)


@pytest.mark.parametrize(
    ("setting", "container", "words", "denoiser"),
    [
        ("auto", "safetensors", "bf16", 24 * 10**9),
        ("fp8", "safetensors", "fp8, computed in bf16", 12 * 10**9),
        ("auto", "gguf", "Q8_0, computed in bf16", 13 * 10**9),
        ("fp8", "gguf", "Q8_0, computed in bf16", 13 * 10**9),
    ],
)
def test_what_it_takes_is_planned_and_told(
    setting: str, container: str, words: str, denoiser: int, starter: Model, tmp_path: Path
) -> None:
    model = of_size(starter, tmp_path, container, 13 * 10**9)
    room = DeviceMemory("cuda", 48 * GIB, bf16=True)
    memory_plan = plan(model, Worker("gpu0", 1, "A GPU", "idle", "", "", "", room, 48 * GIB), (), setting, "")
    assert f"({words})" in plan_words(memory_plan)
    assert denoiser < memory_plan.takes_bytes < denoiser * 1.5 + 4 * GIB
    form = precision.form_of(setting, model, room, 64 * GIB)
    assert precision.held_weights(model, form, 2).kept.get("transformer", denoiser) == denoiser


@pytest.fixture(scope="module", params=tiers(["int8", "nf4"], first=["int8"]))
def few_bits(request: pytest.FixtureRequest) -> Iterator[DiffusersEngine]:
    engine = DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1, numbers=request.param)
    yield engine
    engine.unload()


def test_matrices_in_few_bits_take_less_and_draw_nearly_the_same(
    few_bits: DiffusersEngine, diffusers_engine: DiffusersEngine, starter: Model
) -> None:
    few_bits.load(starter)
    picture, exact = Draw(few_bits)(steps=2), Draw(diffusers_engine)(steps=2)
    assert picture.facts["weights"] == few_bits._precision
    assert "text_encoder_weights" not in picture.facts  # it is small
    apart = ImageChops.difference(picture.image, exact.image).convert("L").resize((1, 1), 4).getpixel((0, 0))
    assert isinstance(apart, int | float)
    assert apart < (12 if few_bits._precision == "int8" else 60)
    assert picture.image.tobytes() != exact.image.tobytes()
    assert few_bits._loaded is not None
    assert diffusers_engine._loaded is not None
    held = bytes_of(few_bits._loaded.pipe.unet, "cpu")
    whole = bytes_of(diffusers_engine._loaded.pipe.unet, "cpu")
    planned = few_bits._cache.weights_of(starter).kept["unet"]
    assert held < whole
    assert abs(held - planned) < 0.02 * held  # the plan knows which matrices are replaced


def test_a_lora_works_on_them_and_leaves_no_trace(
    few_bits: DiffusersEngine,
    diffusers_engine: DiffusersEngine,
    starter: Model,
    at_home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = PictureInputs(at_home.settings, at_home.services.files.open_source)
    monkeypatch.setattr(few_bits, "_materials", inputs)
    few_bits.load(starter)
    assert diffusers_engine._loaded is not None
    make_lora(at_home.settings.loras / "ink.safetensors", diffusers_engine._loaded.pipe.unet)
    bare = Draw(few_bits)(steps=1).image.tobytes()
    assert Draw(few_bits)(steps=1, loras=(Lora("ink", 1.0),)).image.tobytes() != bare
    assert Draw(few_bits)(steps=1).image.tobytes() == bare


@pytest.mark.slow
def test_a_choice_for_the_model_goes_before_the_setting(diffusers_engine: DiffusersEngine, trained: Model) -> None:
    engine = DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1)
    engine.load(trained)
    engine.load(replace(trained, chosen_precision="nf4"))  # loaded anew
    assert Draw(engine)(steps=1).facts["weights"] == "nf4"
    engine.load(replace(trained, chosen_precision="stored"))
    assert Draw(engine)(steps=1).facts["weights"] == "int8"  # as its files are
    engine.load(trained)
    assert "weights" not in Draw(engine)(steps=1).facts
    with pytest.raises(ModelUnavailable, match="fp16"):
        engine.load(replace(trained, chosen_precision="fp16"))
    engine.unload()


@pytest.mark.parametrize(
    ("card", "main", "form"),
    [
        (24, 64, ""),  # streamed: nothing is lost
        (8, 64, ""),
        (48, 16, ""),  # all of it on the card
        (12, 32, ""),
        (24, 16, "int8"),
        (8, 16, "int8"),
        (8, 8, "nf4"),
    ],
)
def test_auto_loses_nothing_as_long_as_the_weights_fit_somewhere(
    card: int, main: int, form: str, starter: Model, tmp_path: Path
) -> None:
    model = of_size(starter, tmp_path, "safetensors", 24 * 10**9)
    room = DeviceMemory("cuda", card * GIB, bf16=True)
    found = precision.form_of("auto", model, room, main * GIB)
    assert found.denoiser == form
    assert bool(found.why) == bool(form)
    assert not form or f"held in {form}" in found.why


def test_what_the_file_holds_is_kept_if_so_wanted(starter: Model, tmp_path: Path) -> None:
    model = of_size(starter, tmp_path, "safetensors", 12 * 10**9)
    room = DeviceMemory("cuda", 24 * GIB, bf16=True)
    for held, form in (("fp8_e4m3", "fp8"), ("nf4", "nf4"), ("int8", "int8"), ("bf16", "")):
        sources = tuple(replace(each, precision=held) for each in model.sources)
        assert precision.form_of("stored", replace(model, sources=sources), room, 64 * GIB).denoiser == form
        tight = precision.form_of("auto", replace(model, sources=sources), replace(room, bytes=GIB), 20 * GIB)
        assert tight.denoiser == (form or "int8")  # what the file has before anything else


def test_the_reason_is_told_with_the_plan(starter: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "main_memory", lambda: 16 * GIB)
    model = of_size(starter, tmp_path, "safetensors", 24 * 10**9)
    room = DeviceMemory("cuda", 12 * GIB, bf16=True)
    memory_plan = plan(model, Worker("gpu0", 1, "A GPU", "idle", "", "", "", room, 12 * GIB), (), "auto", "")
    assert memory_plan.numbers == "nf4, computed in bf16" or memory_plan.numbers == "int8, computed in bf16"
    assert "of main memory" in memory_plan.why
