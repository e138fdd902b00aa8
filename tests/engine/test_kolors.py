"""Kolors in the files that people have: they draw what a diffusers folder of the same weights draws."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from diffusion_local.domain import Kind
from diffusion_local.engine import autoencoder, img2img
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.models.catalog import Catalog, Model, read_folder
from diffusion_local.models.directories import ModelDirectories
from diffusion_local.models.prompt_limits import count_read, prompt_warnings
from diffusion_local.options.types import Lora
from diffusion_local.paths import assets
from tests.engine import tiny
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora
from tests.engine.test_flow_families import difference
from tests.models.files import original_unet, original_vae
from tests.support import PARAMS, tiers

JOB: dict[str, Any] = {"model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "width": 64, "height": 64,
                       "guidance": 3.0}  # fmt: skip
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def pipe() -> Any:
    """With the widths by which the files are told."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.kolors(text=4096, cross=2048, time=256)


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / "models/tiny"
    pipe.save_pretrained(folder)
    return folder


def eight_bits(state: State) -> tuple[State, State]:
    """As ChatGLM's own code quantises the matrices of its layers, and the numbers that they stand for."""
    stored, numbers = dict(state), dict(state)
    for name in [name for name in state if name.startswith("encoder.layers.") and state[name].dim() == 2]:
        scale = state[name].abs().amax(dim=1) / 127
        stored[name] = (state[name] / scale[:, None]).round().to(torch.int8)
        stored[f"{name}_scale"] = scale
        numbers[name] = stored[name] * scale[:, None]
    return stored, numbers


def four_bits(state: State) -> tuple[State, State]:
    stored, numbers = dict(state), dict(state)
    for name in [name for name in state if name.startswith("encoder.layers.") and state[name].dim() == 2]:
        scale = state[name].abs().amax(dim=1) / 7
        whole = (state[name] / scale[:, None]).round().to(torch.int32)
        stored[name] = ((whole[:, ::2] << 4) | (whole[:, 1::2] & 15)).to(torch.int8)
        stored[f"{name}_scale"] = scale
        numbers[name] = whole * scale[:, None]
    return stored, numbers


FORMS: dict[str, Callable[[State], tuple[State, State]]] = {
    "fp32": lambda state: (state, state), "int8": eight_bits, "int4": four_bits,
}  # fmt: skip


def save(state: State, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous().clone() for name, each in state.items()}, path)


def write(home: Path, pipe: Any, whole: Path, encoder: State) -> Catalog:
    """A home with the files of the parts, and with the vocabulary beside the text encoder."""
    save(pipe.unet.state_dict(), home / "models/tiny.safetensors")
    return beside(home, pipe, whole, encoder)


def beside(home: Path, pipe: Any, whole: Path, encoder: State) -> Catalog:
    save(encoder, home / "text_encoders/chatglm3.safetensors")
    save({name.removeprefix("first_stage_model."): each for name, each in original_vae(pipe.vae.state_dict()).items()},
         home / "vae/sdxl_vae.safetensors")  # fmt: skip
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(whole / "tokenizer" / name, home / "text_encoders")
    config = home / "configs/kolors"
    shutil.copytree(whole, config, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    return catalogue(home)


def catalogue(home: Path) -> Catalog:
    directories = ModelDirectories(
        home / "models", vae=home / "vae", text_encoders=home / "text_encoders", configs=home / "configs"
    )
    return Catalog(assets() / "starter", directories)


def drawn(engine: DiffusersEngine, model: Model, **more: Any) -> PIL.Image:
    assert model.ready, model.problem
    engine.load(model)
    return Draw(engine)(**JOB | more).image


@pytest.mark.parametrize("form", tiers(FORMS, first=["int4"]))
def test_files_draw_what_the_folder_of_their_numbers_draws(
    form: str, diffusers_engine: DiffusersEngine, pipe: Any, whole: Path, tmp_path: Path
) -> None:
    stored, numbers = FORMS[form](dict(pipe.text_encoder.state_dict().items()))
    stored.pop("rotary_pos_emb.inv_freq")  # which the class computes, and some files lack
    model = write(tmp_path / "home", pipe, whole, stored).get("tiny")
    assert (model.family, model.source) == ("kolors", "file")
    encoder = next(each for each in model.sources if each.slot == "text_encoder")
    assert encoder.quantisation == {"int8": "int8", "int4": "int4_rows"}.get(form, "")
    assert encoder.count == sum(each.numel() for name, each in numbers.items() if name != "rotary_pos_emb.inv_freq")
    folder = tmp_path / "folder/tiny"
    shutil.copytree(whole, folder)
    save(numbers, folder / "text_encoder/model.safetensors")
    theirs = drawn(diffusers_engine, read_folder(folder, "tiny", ""))
    assert difference(drawn(diffusers_engine, model), theirs) <= 1


def test_a_checkpoint_in_the_authors_names_draws_what_the_folder_draws(
    diffusers_engine: DiffusersEngine, pipe: Any, whole: Path, tmp_path: Path
) -> None:
    """UNet and VAE in one file, as programs save it."""
    state = original_unet(pipe.unet.state_dict()) | original_vae(pipe.vae.state_dict())
    save(state, tmp_path / "models/tiny.safetensors")
    model = beside(tmp_path, pipe, whole, pipe.text_encoder.state_dict()).get("tiny")
    assert [each.path.name for each in model.sources] == [
        "tiny.safetensors",
        "chatglm3.safetensors",
        "tiny.safetensors",
    ]
    theirs = drawn(diffusers_engine, read_folder(whole, "tiny", ""))
    assert difference(drawn(diffusers_engine, model), theirs) <= 1


def test_what_is_missing_is_named(pipe: Any, whole: Path, tmp_path: Path) -> None:
    shelf = write(tmp_path, pipe, whole, pipe.text_encoder.state_dict())
    (tmp_path / "text_encoders/tokenizer.model").unlink()
    assert "tokenizer" in shelf.get("tiny").problem
    (tmp_path / "text_encoders/chatglm3.safetensors").unlink()
    assert "ChatGLM3 6B" in catalogue(tmp_path).get("tiny").problem


def test_its_tokens_are_counted(pipe: Any, whole: Path, tmp_path: Path) -> None:
    folder = read_folder(whole, "tiny", "")
    file = write(tmp_path, pipe, whole, pipe.text_encoder.state_dict()).get("tiny")
    tokenizer = folder.folder / "tokenizer"
    expected = len(diffusers.pipelines.kolors.ChatGLMTokenizer.from_pretrained(tokenizer)("a cat ab").input_ids) - 2
    assert count_read(folder, "a cat ab") == count_read(file, "a cat ab") == (254, expected)
    assert "reads 254 tokens" in prompt_warnings(file, replace(PARAMS, prompt="cat " * 300, negative=""))[0]


@pytest.mark.parametrize("layout", ["unet", "lora_unet"])
@pytest.mark.slow  # names of its layers are those of SDXL, as in test_hooked
def test_a_lora_draws_as_in_diffusers_own_pipeline(
    layout: str, diffusers_engine: DiffusersEngine, whole: Path, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_folder(whole, "tiny", "")
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    path = make_lora(at_home.settings.loras / "style.safetensors", pipeline(whole).unet)
    if layout == "lora_unet":
        rename_as_kohya(path)
    plain = drawn(diffusers_engine, model)
    ours = drawn(diffusers_engine, model, loras=(Lora("style", 0.7),))
    pipe = pipeline(whole)
    pipe.load_lora_weights(load_file(path), adapter_name="style")
    pipe.set_adapters(["style"], [0.7])
    assert difference(ours, bare(pipe)) <= 1 < difference(ours, plain)


def rename_as_kohya(path: Path) -> None:
    found = {}
    for name, tensor in load_file(path).items():
        stem, _, end = name.removeprefix("unet.").partition(".lora_")
        stem = f"lora_unet_{stem.replace('.', '_')}"
        found[f"{stem}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = tensor
        found[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(found, path)


def pipeline(folder: Path) -> Any:
    pipe = diffusers.KolorsPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def bare(pipe: Any, **more: Any) -> PIL.Image:
    found: PIL.Image = pipe(
        "a cat", width=64, height=64, num_inference_steps=2, guidance_scale=3.0, negative_prompt="",
        generator=torch.Generator().manual_seed(7), **more,
    ).images[0]  # fmt: skip
    return found


@pytest.mark.slow  # the loop of image to image is that of test_img2img
def test_image_to_image_draws_as_diffusers_own_pipeline(
    diffusers_engine: DiffusersEngine, whole: Path, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    wish = {"kind": Kind.IMG2IMG, "source": at_home.source, "strength": 0.5, "steps": 4}
    ours = drawn(diffusers_engine, read_folder(whole, "tiny", ""), **wish, width=128, height=128)
    pipe = diffusers.KolorsImg2ImgPipeline.from_pretrained(whole)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():  # it would draw them at random around the mean
        latents = autoencoder.encode(pipe.vae, img2img.SourceCanvas(at_home.circle).pixels())
    theirs = pipe(
        "a cat", image=latents, strength=0.5, width=128, height=128, num_inference_steps=4, guidance_scale=3.0,
        negative_prompt="", generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    assert difference(ours, theirs) <= 1


@pytest.mark.slow  # as SD's with nine channels in test_img2img
def test_a_unet_that_reads_a_mask_paints_within_it(
    diffusers_engine: DiffusersEngine, pipe: Any, whole: Path, at_home: Home, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    shelf = write(tmp_path, pipe, whole, pipe.text_encoder.state_dict())
    state = dict(pipe.unet.state_dict())
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.randn(16, 5, 3, 3) / 8], dim=1)
    save(state, tmp_path / "models/tiny.safetensors")
    model = shelf.get("tiny")
    assert model.kinds == (Kind.INPAINT,)
    wish = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8}
    kept = (64, 0, 128, 128)
    picture = drawn(diffusers_engine, model, **wish, width=128, height=128)
    assert picture.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
    assert picture.tobytes() != at_home.circle.tobytes()
