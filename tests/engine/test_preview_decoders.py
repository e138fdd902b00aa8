"""Previews by a small VAE in the home: TAESD in the forms that people have."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import save_file

from diffusion_local.engine import preview_decoders, previews
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.home_files import HomeFiles
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.engine.preview_decoders import PreviewDecoder
from diffusion_local.models.catalog import Model
from diffusion_local.settings import Settings
from tests.engine.conftest import Draw
from tests.engine.home import Home

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture(scope="module")
def tiny() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.AutoencoderTiny(latent_channels=4).eval()


def authors(state: State, prefix: str) -> State:
    """The decoder under its author's names, where the first layer has no weights."""
    found = {}
    for name, tensor in state.items():
        half, _, number, rest = name.split(".", 3)
        if half == "decoder":
            found[f"{prefix}{int(number) + 1}.{rest}"] = tensor.clone()
    return found


def write(form: str, state: State, folder: Path) -> Path:
    match form:
        case "diffusers":
            save_file(state, folder / "taesd.safetensors")
            return folder / "taesd.safetensors"
        case "half":
            save_file(authors(state, ""), folder / "taesd_decoder.safetensors")
            return folder / "taesd_decoder.safetensors"
        case "pickle":
            torch.save(authors(state, ""), folder / "taesd_decoder.pth")
            return folder / "taesd_decoder.pth"
    save_file(authors(state, "taesd_decoder."), folder / "taesd_decoder.safetensors")
    return folder / "taesd_decoder.safetensors"


@pytest.mark.parametrize("form", ["diffusers", "half", "pickle", "prefixed"])
def test_a_preview_is_what_the_small_vae_decodes(form: str, tiny: Any, tmp_path: Path) -> None:
    decoder = PreviewDecoder(write(form, tiny.state_dict(), tmp_path))
    latents = torch.randn(2, 4, 12, 8)
    finish = decoder.begin(latents)
    assert finish is not None
    with torch.no_grad():
        theirs = tiny.decode(latents[:1]).sample[0].clamp(-1, 1).mul(127.5).add(127.5)
    assert np.abs(np.asarray(finish()).astype(int) - theirs.movedim(0, -1).numpy()).max() <= 1


def test_large_pictures_are_previewed_at_the_usual_size(tiny: Any, tmp_path: Path) -> None:
    decoder = PreviewDecoder(write("half", tiny.state_dict(), tmp_path))
    finish = decoder.begin(torch.randn(1, 4, 64, 128))
    assert finish is not None
    assert finish().size == (previews.LONG_SIDE, previews.LONG_SIDE // 2)


@pytest.mark.parametrize("damage", ["text", "cut", "lacks", "shape", "nan"])
def test_a_damaged_file_is_told_once_and_not_used(
    damage: str, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {name: each.clone() for name, each in tiny.state_dict().items()}
    if damage == "lacks":
        del state["decoder.layers.3.conv.0.weight"]
    if damage == "shape":
        state["decoder.layers.3.conv.0.weight"] = torch.zeros(8, 8, 3, 3)
    if damage == "nan":
        state["decoder.layers.3.conv.0.weight"][0] = torch.nan
    path = write("diffusers", state, tmp_path)
    if damage in ("text", "cut"):
        path.write_bytes(b"<html>" if damage == "text" else path.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING, preview_decoders.__name__):
        decoder = PreviewDecoder(path)
        assert [decoder.begin(torch.randn(1, 4, 8, 8)) for _ in range(3)] == [None] * 3
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "previews are drawn without taesd.safetensors" in caplog.text


def test_latents_of_other_channels_are_told_once(tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decoder = PreviewDecoder(write("diffusers", tiny.state_dict(), tmp_path))
    with caplog.at_level(logging.WARNING, preview_decoders.__name__):
        assert [decoder.begin(torch.randn(1, 16, 8, 8)) for _ in range(2)] == [None, None]
    assert len(caplog.records) == 1


@pytest.fixture
def vaes(settings: Settings, tiny: Any) -> Path:
    settings.vae.mkdir(parents=True, exist_ok=True)
    save_file(authors(tiny.state_dict(), ""), settings.vae / "taesdxl_decoder.safetensors")
    tiny.save_pretrained(settings.vae / "taesd")
    return settings.vae


def test_it_is_found_for_models_of_its_latents(settings: Settings, vaes: Path) -> None:
    files = HomeFiles(settings)
    found = {name: files.preview_vae(name) for name in ("sd1", "sdxl", "kolors", "flux_dev", "starter", "")}
    assert found == {
        "sd1": vaes / "taesd/diffusion_pytorch_model.safetensors",
        "sdxl": vaes / "taesdxl_decoder.safetensors",
        "kolors": vaes / "taesdxl_decoder.safetensors",
        "flux_dev": None, "starter": None, "": None,
    }  # fmt: skip


def test_it_is_found_in_comfyuis_tree(settings: Settings, tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ComfyUI/models/vae_approx"
    folder.mkdir(parents=True)
    (tmp_path / "ComfyUI/comfy").mkdir()
    torch.save(authors(tiny.state_dict(), ""), folder / "taesd_decoder.pth")
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / "models.json").write_text(json.dumps({"paths": [str(tmp_path / "ComfyUI")]}))
    assert HomeFiles(settings).preview_vae("sd1") == folder / "taesd_decoder.pth"


@pytest.mark.parametrize(("choice", "device", "used"), [
    ("auto", "cuda", True), ("auto", "cpu", False), ("on", "cpu", True), ("off", "cuda", False),
])  # fmt: skip
def test_the_setting_says_where_it_is_used(
    choice: str, device: str, used: bool, settings: Settings, vaes: Path
) -> None:
    inputs = PictureInputs(replace(settings, preview_vae=choice), lambda source: None)  # type: ignore[arg-type,return-value]
    first = inputs.preview_decoder("sd1", device)
    assert (first is not None) == used
    assert inputs.preview_decoder("sd1", device) is first  # which is read once


def test_a_running_picture_is_previewed_with_it(
    diffusers_engine: DiffusersEngine, starter: Model, at_home: Home, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture itself stays as it is; a decoder that fails leaves the linear preview."""
    decoder = PreviewDecoder(write("diffusers", tiny.state_dict(), at_home.settings.home))
    monkeypatch.setattr(PictureInputs, "preview_decoder", lambda self, architecture, device: decoder)
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(starter)
    draw = Draw(diffusers_engine)
    picture = draw(steps=2).image
    small = draw.previews[0]()()
    assert isinstance(small, PIL.Image)
    decoder._net = None
    assert draw(steps=2).image.tobytes() == picture.tobytes()
    linear = draw.previews[0]()()
    assert linear.size == small.size
    assert linear.tobytes() != small.tobytes()
