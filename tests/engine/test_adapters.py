"""LoRAs, VAEs and textual inversions: they change the picture as they say, leave no trace, and misfits are named."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_local.engine import adapters
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import short_hash
from diffusion_local.engine.loaded import Loaded
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def loaded(diffusers_engine: DiffusersEngine) -> Loaded:
    assert diffusers_engine._loaded is not None
    return diffusers_engine._loaded


@pytest.fixture
def ink(at_home: Home, loaded: Loaded) -> Path:
    return make_lora(at_home.settings.loras / "ink.safetensors", loaded.pipe.unet)


def test_a_lora_changes_the_picture_by_its_weight_and_leaves_no_trace(draw_at_home: Draw, ink: Path) -> None:
    bare = draw_at_home(steps=2).image.tobytes()
    full = draw_at_home(steps=2, loras=(Lora("ink"),))
    assert full.facts["lora_hashes"] == {"ink": short_hash(ink)}
    half = draw_at_home(steps=2, loras=(Lora("ink", 0.5),)).image.tobytes()
    none = draw_at_home(steps=2, loras=(Lora("ink", 0.0),)).image.tobytes()
    assert len({bare, full.image.tobytes(), half}) == 3
    assert none == bare
    assert draw_at_home(steps=2, loras=(Lora("ink"),)).image.tobytes() == full.image.tobytes()
    assert draw_at_home(steps=2).image.tobytes() == bare


def test_loras_add_up_and_stay_in_while_they_are_asked_for(
    draw_at_home: Draw, at_home: Home, ink: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_lora(at_home.settings.loras / "style/wash.v2.safetensors", loaded.pipe.unet, seed=2)
    read: list[str] = []
    load = adapters.load_lora
    monkeypatch.setattr(adapters, "load_lora", lambda held, name, path: (read.append(name), load(held, name, path)))
    both = (Lora("ink", 0.7), Lora("style/wash.v2", 0.3))
    first = draw_at_home(steps=2, loras=both).image.tobytes()
    assert draw_at_home(steps=2, loras=both).image.tobytes() == first
    draw_at_home(steps=2, loras=(Lora("ink", 0.2),))
    assert read == ["ink", "style/wash.v2"]
    assert draw_at_home(steps=2, loras=both).image.tobytes() == first
    assert read == ["ink", "style/wash.v2", "style/wash.v2"]


def test_a_lora_that_does_not_fit_is_named_and_the_next_picture_is_made(
    draw_at_home: Draw, at_home: Home, ink: Path
) -> None:
    bare = draw_at_home(steps=1).image.tobytes()
    wide = {
        name: torch.cat([tensor] * 2, dim=1) if "lora_A" in name else tensor for name, tensor in load_file(ink).items()
    }
    save_file(wide, at_home.settings.loras / "wide.safetensors")
    other = "transformer.blocks.0.attn.to_q"
    foreign = {f"{other}.lora_A.weight": torch.ones(2, 4), f"{other}.lora_B.weight": torch.ones(4, 2)}
    save_file(foreign, at_home.settings.loras / "dit.safetensors")
    (at_home.settings.loras / "cut.safetensors").write_bytes(ink.read_bytes()[:-100])
    for name, words in (
        ("wide", "'wide' does not fit starter"),
        ("dit", "'dit' does not fit starter"),
        ("cut", r"cut\.safetensors is cut short"),
        ("none", r"loras/none\.safetensors is missing"),
    ):
        with pytest.raises(ModelUnavailable, match=words):
            draw_at_home(steps=1, loras=(Lora("ink"), Lora(name)))
        assert draw_at_home(steps=1).image.tobytes() == bare, name


def test_a_lora_and_a_vae_in_pickles_are_those_of_safetensors(
    draw_at_home: Draw, at_home: Home, loaded: Loaded, ink: Path
) -> None:
    torch.save({"state_dict": load_file(ink)}, at_home.settings.loras / "old.pt")
    made = [draw_at_home(steps=1, loras=(Lora(name),)).image.tobytes() for name in ("ink", "old")]
    assert made[0] == made[1] != draw_at_home(steps=1).image.tobytes()
    weights = {name: tensor * 0.9 for name, tensor in loaded.pipe.vae.state_dict().items()}
    save_file(weights, at_home.settings.vae / "dark.safetensors")
    torch.save({"state_dict": weights}, at_home.settings.vae / "old-dark.pt")
    made = [draw_at_home(steps=1, vae=name).image.tobytes() for name in ("dark", "old-dark")]
    assert made[0] == made[1] != draw_at_home(steps=1).image.tobytes()


def test_a_small_vae_is_used_and_put_away_again(draw_at_home: Draw, at_home: Home, loaded: Loaded) -> None:
    own = draw_at_home(steps=1).image
    tiny = diffusers.AutoencoderTiny(latent_channels=loaded.pipe.vae.config.latent_channels)
    save_file(tiny.state_dict(), at_home.settings.vae / "taesd.safetensors")
    small = draw_at_home(steps=1, vae="taesd").image
    assert small.size == own.size
    assert small.tobytes() != own.tobytes()
    assert draw_at_home(steps=1).image.tobytes() == own.tobytes()


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_another_vae_is_used_and_put_away_again(draw_at_home: Draw, at_home: Home, loaded: Loaded, layout: str) -> None:
    bare = draw_at_home(steps=1).image.tobytes()
    weights = {name: tensor.clone() for name, tensor in loaded.pipe.vae.state_dict().items()}
    if layout == "original":
        pytest.importorskip("diffusers")
        weights = {f"first_stage_model.{name}": tensor for name, tensor in original(weights).items()}
        bias = "first_stage_model.decoder.conv_out.bias"
    else:
        bias = "decoder.conv_out.bias"
    weights[bias] = weights[bias] + 0.3
    path = at_home.settings.vae / "bright.safetensors"
    save_file(weights, path)
    bright = draw_at_home(steps=1, vae="bright")
    assert bright.facts["vae_hash"] == short_hash(path)
    assert bright.image.tobytes() != bare
    assert draw_at_home(steps=1).image.tobytes() == bare


def original(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' names of a VAE's weights as the original code has them."""
    blocks = len({name.split(".")[2] for name in weights if name.startswith("decoder.up_blocks")})
    found = {}
    for name, tensor in weights.items():
        new = name
        for part, there in (("down_blocks", "down"), ("up_blocks", "up")):
            if f".{part}." in new:
                half, _, number, rest = new.split(".", 3)
                index = int(number) if part == "down_blocks" else blocks - 1 - int(number)
                rest = (
                    rest.replace("resnets.", "block.")
                    .replace("downsamplers.0", "downsample")
                    .replace("upsamplers.0", "upsample")
                )
                new = f"{half}.{there}.{index}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        if "mid_block" in new:
            new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
            for ours, theirs in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                if f"attentions.0.{ours}." in new:
                    new = new.replace(f"mid_block.attentions.0.{ours}", f"mid.attn_1.{theirs}")
                    if theirs != "norm" and tensor.ndim == 2:
                        tensor = tensor[:, :, None, None]
        found[new.replace("conv_norm_out", "norm_out")] = tensor.contiguous()
    return found


def test_an_embedding_is_called_by_its_name(draw_at_home: Draw, at_home: Home, loaded: Loaded) -> None:
    without = draw_at_home(steps=1, prompt="a zwirbel apple").image.tobytes()
    width = loaded.pipe.text_encoder.get_input_embeddings().weight.shape[1]
    path = at_home.settings.embeddings / "zwirbel.safetensors"
    save_file({"emb_params": torch.randn(3, width, generator=torch.Generator().manual_seed(1))}, path)
    made = draw_at_home(steps=1, prompt="a Zwirbel apple")
    assert made.facts["embedding_hashes"] == {"zwirbel": short_hash(path)}
    assert made.image.tobytes() != without
    weighted = draw_at_home(steps=1, prompt="a (Zwirbel:1.3) apple").image.tobytes()
    assert weighted not in (without, made.image.tobytes())
    save_file({"emb_params": torch.zeros(1, width + 1)}, at_home.settings.embeddings / "misfit.safetensors")
    with pytest.raises(ModelUnavailable, match="'misfit' is made for another model"):
        draw_at_home(steps=1, prompt="a misfit")


def test_an_embedding_in_a_pickle_file_is_that_of_safetensors(
    draw_at_home: Draw, at_home: Home, loaded: Loaded, tmp_path: Path
) -> None:
    width = loaded.pipe.text_encoder.get_input_embeddings().weight.shape[1]
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": vectors}, at_home.settings.embeddings / "plainword.safetensors")
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "x", "step": 3}
    torch.save(a1111, at_home.settings.embeddings / "oldword.pt")
    torch.save({"<x>": vectors}, tmp_path / "of-diffusers.bin")
    assert torch.equal(adapters.read_embedding(tmp_path / "of-diffusers.bin")["<x>"], vectors)
    same = [draw_at_home(steps=1, prompt=f"a {word} apple").image.tobytes() for word in ("plainword", "oldword")]
    assert same[0] == same[1] != draw_at_home(steps=1, prompt="a nice apple").image.tobytes()


def test_an_embedding_that_would_run_code_is_not_opened(draw_at_home: Draw, at_home: Home, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return open, (str(tmp_path / "run"), "w")

    torch.save({"string_to_param": {"*": torch.zeros(1, 768)}, "x": Evil()}, at_home.settings.embeddings / "evil.pt")
    draw_at_home(steps=1, prompt="an evil apple")  # plain text
    assert not (tmp_path / "run").exists()


def test_a_textual_inversion_for_one_of_two_text_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    path = tmp_path / "word.safetensors"
    save_file({"clip_g": torch.zeros(2, 1280)}, path)
    monkeypatch.setattr(adapters, "add_embedding", lambda pipe, word, vectors, number: added.append(number))
    adapters.load_embedding(None, "word", path)
    assert added == ["_2"]
