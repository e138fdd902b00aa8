"""Text encoders that models in memory share: one object, the same pictures, counted once, and changed for one only."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_local.engine import encoders, placement
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.memory import RungChoice
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_language_families import flux2, z_image
from tests.support import tiers

SMALL: dict[str, Any] = {"steps": 1, "width": 64, "height": 64}


@pytest.fixture
def engine() -> Iterator[DiffusersEngine]:
    opened = DiffusersEngine(at_slot("cpu0"), threads=1)
    yield opened
    opened.unload()


@pytest.fixture
def other(starter: Model) -> Model:
    return replace(starter, id="other")


@pytest.fixture
def copied(starter_copy: Callable[[], Model]) -> Model:
    """The starter with text-encoder files of its own, of the same content, split otherwise."""
    model = starter_copy()
    part = model.folder / "text_encoder"
    state: dict[str, torch.Tensor] = {}
    for file in part.glob("*.safetensors"):
        state |= load_file(file)
        file.unlink()
    save_file(state, part / "model.safetensors")
    return read_folder(model.folder, "copied", "Copied")


def encoder(engine: DiffusersEngine, name: str) -> Any:
    return engine._cache._held[name].pipe.text_encoder


def bare(model: Model, **more: Any) -> bytes:
    """A picture of an engine that has no other model."""
    alone = DiffusersEngine(at_slot("cpu0"), threads=1)
    alone.load(model)
    picture = Draw(alone)(model=model.id, **SMALL | more).image.tobytes()
    alone.unload()
    return picture


def test_models_with_one_encoder_share_it_and_draw_as_if_alone(
    engine: DiffusersEngine, starter: Model, copied: Model
) -> None:
    alone = bare(starter)
    engine.load(starter)
    engine.load(copied)
    assert encoder(engine, "starter") is encoder(engine, "copied")
    assert Draw(engine)(model="copied", **SMALL).image.tobytes() == alone
    engine.load(starter)
    assert Draw(engine)(**SMALL).image.tobytes() == alone


def test_it_counts_once_and_stays_as_long_as_a_model_uses_it(
    engine: DiffusersEngine, starter: Model, other: Model
) -> None:
    engine.load(starter)
    one = engine._cache._bytes()
    engine.load(other)
    shared = encoder(engine, "other")
    size = placement.bytes_of(shared, "cpu")
    assert size > 1_000_000
    assert engine._cache._bytes() == 2 * one - size
    assert engine._cache.bytes_of_others() == one - size
    assert engine.free_caches()  # the first model goes, the encoder stays
    assert engine._cache._bytes() == one
    assert encoder(engine, "other") is shared
    known = engine._cache._encoders
    del shared
    engine.unload()
    assert known.find(encoders.encoder_request(other, "text_encoder", torch.float32)) is None


@pytest.mark.slow
def test_room_for_a_model_is_without_the_encoder_that_is_there(
    engine: DiffusersEngine, starter: Model, other: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(starter)
    size, shared = engine._cache._bytes(), placement.bytes_of(encoder(engine, "starter"), "cpu")
    room = 2 * size - shared + 1000
    monkeypatch.setattr(engine._cache._gauge, "free", lambda: room - engine._cache._bytes())
    engine.load(other, RungChoice("resident", takes=size))
    assert list(engine._cache._held) == ["starter", "other"]  # without sharing the first would have gone
    engine.load(replace(starter, id="third"), RungChoice("resident", takes=size))
    assert list(engine._cache._held) == ["other", "third"]  # the one used longest ago
    assert encoder(engine, "other") is encoder(engine, "third")


def test_other_weights_are_not_shared(engine: DiffusersEngine, starter: Model, copied: Model) -> None:
    file = copied.folder / "text_encoder/model.safetensors"
    state = load_file(file)
    name = max(state, key=lambda each: state[each].numel())
    state[name].view(-1)[-1] += 1  # one number of one tensor
    save_file(state, file)
    engine.load(starter)
    engine.load(copied)
    assert encoder(engine, "starter") is not encoder(engine, "copied")


@pytest.fixture
def words(engine: DiffusersEngine, at_home: Home) -> Home:
    engine._materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    return at_home


@pytest.mark.slow
def test_an_embedding_changes_only_the_model_that_it_is_loaded_into(
    engine: DiffusersEngine, starter: Model, other: Model, words: Home
) -> None:
    engine.load(starter)
    plain = Draw(engine)(**SMALL, prompt="a zorb").image.tobytes()
    engine.load(other)
    width = encoder(engine, "other").config.hidden_size
    words.settings.embeddings.mkdir(exist_ok=True)
    save_file({"emb_params": torch.ones(1, width)}, words.settings.embeddings / "zorb.safetensors")
    changed = Draw(engine)(model="other", **SMALL, prompt="a zorb").image.tobytes()
    assert changed != plain
    assert encoder(engine, "other") is not encoder(engine, "starter")
    rows = [len(encoder(engine, name).get_input_embeddings().weight) for name in ("other", "starter")]
    assert rows[0] == rows[1] + 1
    (words.settings.embeddings / "zorb.safetensors").unlink()
    engine.load(starter)
    assert Draw(engine)(**SMALL, prompt="a zorb").image.tobytes() == plain
    engine.load(replace(starter, id="third"))  # joins the unchanged one
    assert encoder(engine, "third") is encoder(engine, "starter")


@pytest.mark.parametrize("prefix", tiers(["text_encoder", "lora_te"], first=["lora_te"]))
def test_a_lora_changes_only_the_model_that_it_is_loaded_into(
    engine: DiffusersEngine, starter: Model, other: Model, words: Home, prefix: str
) -> None:
    engine.load(starter)
    plain = Draw(engine)(**SMALL).image.tobytes()
    engine.load(other)
    width = encoder(engine, "other").config.hidden_size
    down, up = torch.full((2, width), 0.3), torch.full((width, 2), 0.3)
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    if prefix == "text_encoder":
        tensors = {f"text_encoder.{layer}.lora_A.weight": down, f"text_encoder.{layer}.lora_B.weight": up}
    else:
        stem = f"lora_te_{layer.replace('.', '_')}"
        tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)}
    words.settings.loras.mkdir(exist_ok=True)
    save_file(tensors, words.settings.loras / "voice.safetensors")
    changed = Draw(engine)(model="other", **SMALL, loras=(Lora("voice", 1.0),)).image.tobytes()
    assert changed != plain
    assert encoder(engine, "other") is not encoder(engine, "starter")
    engine.load(starter)
    assert Draw(engine)(**SMALL).image.tobytes() == plain


@pytest.mark.slow
def test_models_that_offload_leave_a_shared_encoder_usable(
    engine: DiffusersEngine, starter: Model, other: Model
) -> None:
    """Hooks of one model's rung are on the encoder that the other uses: each places it anew when it draws."""
    alone = bare(starter)
    rack = engine._cache
    engine.load(starter)
    engine.load(other, RungChoice("encoder_offload"))
    assert encoder(engine, "starter") is encoder(engine, "other")
    assert rack._held["starter"].displaced
    for name, rung in (("starter", "resident"), ("other", "encoder_offload")) * 2:
        engine.load(replace(starter, id=name), RungChoice(rung))
        assert not rack._held[name].displaced
        assert Draw(engine)(model=name, **SMALL).image.tobytes() == alone
    rack._drop("other")
    assert not hasattr(encoder(engine, "starter"), "_hf_hook")
    engine.load(starter)
    assert Draw(engine)(**SMALL).image.tobytes() == alone


@pytest.mark.slow
def test_on_rungs_that_cannot_be_left_nothing_is_shared(engine: DiffusersEngine, starter: Model, other: Model) -> None:
    engine.load(starter)
    engine.load(other, RungChoice("attention_slicing"))
    assert encoder(engine, "starter") is not encoder(engine, "other")
    third = replace(starter, id="third")
    engine.load(third)
    assert encoder(engine, "third") is encoder(engine, "starter")
    engine.load(third, RungChoice("attention_slicing"))
    assert "starter" not in engine._cache._held


@pytest.mark.slow
def test_z_image_and_klein_share_qwen(engine: DiffusersEngine, tmp_path: Path) -> None:
    """Their classes differ by a head that neither uses."""
    torch.manual_seed(0)
    klein, image = flux2(), z_image()
    image.text_encoder = klein.text_encoder.model
    models = []
    for name, pipe in (("klein", klein), ("image", image)):
        pipe.save_pretrained(tmp_path / name)
        models.append(read_folder(tmp_path / name, name, name))
    for model in models:
        engine.load(model)
    assert encoder(engine, "klein") is encoder(engine, "image")
    wish = {"width": 64, "height": 64, "sampler": "Euler"}
    for model in models:
        engine.load(model)
        found = Draw(engine)(model=model.id, steps=1, **wish).image.tobytes()
        assert found == bare(model, **wish)
