"""A model whose files are not whole is refused with a sentence that names the file and says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model
from tests.engine.conftest import Draw

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    replace(folder / VAE, (folder / VAE).read_bytes()[:-1000])


def truncate_header(folder: Path) -> None:
    replace(folder / VAE, (folder / VAE).read_bytes()[:100])


def empty(folder: Path) -> None:
    replace(folder / VAE, b"")


def web_page(folder: Path) -> None:
    replace(folder / VAE, b"<!DOCTYPE html>" + b" " * 0x10000)


def nonsense(folder: Path) -> None:
    replace(folder / VAE, (5).to_bytes(8, "little") + b"{nope" + b" " * 100)


def no_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def no_unet_weights(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors*"):
        path.unlink()


def missing_shard(folder: Path) -> None:
    for path in (folder / "unet").glob("*.safetensors*"):
        path.unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.bias": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def no_vocabulary(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)


def bad_json(folder: Path) -> None:
    replace(folder / "unet/config.json", b'{"act_fn": ')


def json_list(folder: Path) -> None:
    replace(folder / "unet/config.json", b"[]")


def no_config(folder: Path) -> None:
    (folder / "text_encoder/config.json").unlink()


def pickle_only(folder: Path) -> None:
    no_unet_weights(folder)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (truncate, f"{VAE} is cut short"),
        (truncate_header, f"{VAE} is cut short"),
        (empty, f"{VAE} is empty"),
        (web_page, f"{VAE} is a web page, not a model"),
        (nonsense, f"{VAE} is damaged"),
        (no_unet, "folder copy/unet is missing"),
        (no_unet_weights, r"(copy/unet has no weights|unet/.*\.safetensors is missing)"),
        (missing_shard, "unet/diffusion_pytorch_model-00001-of-00002.safetensors is missing"),
        (no_tokenizer, "folder copy/tokenizer is missing"),
        (no_vocabulary, "tokenizer/vocab.json is missing"),
        (bad_json, "unet/config.json is damaged: it is not valid JSON"),
        (json_list, "unet/config.json is damaged"),
        (no_config, "text_encoder/config.json is missing"),
        (pickle_only, "only as a pickle file"),
    ],
)
def test_damage_is_named(
    diffusers_engine: DiffusersEngine,
    starter_copy: Callable[[], Model],
    damage: Callable[[Path], None],
    sentence: str,
) -> None:
    model = starter_copy()
    damage(model.folder)
    with pytest.raises(ModelUnavailable, match=sentence) as raised:
        diffusers_engine.load(model)
    assert "again" in raised.value.message or "safetensors form" in raised.value.message
    assert str(model.folder) not in raised.value.message  # it is told to everybody who sees the job
    assert diffusers_engine.loaded == "starter"  # found before anything was unloaded


def test_files_that_are_whole_but_do_not_fit_are_an_error_of_the_model(
    diffusers_engine: DiffusersEngine, starter_copy: Callable[[], Model], starter: Model
) -> None:
    model = starter_copy()
    config = json.loads((model.folder / "vae/config.json").read_text())
    replace(model.folder / "vae/config.json", json.dumps(config | {"latent_channels": 8}).encode())
    with pytest.raises(ModelUnavailable, match=r"'copy' cannot be loaded: .*download the model again"):
        diffusers_engine.load(model)
    assert diffusers_engine.loaded == ""
    diffusers_engine.load(starter)
    Draw(diffusers_engine)(steps=1)


def test_a_whole_copy_is_loaded_and_draws_the_same(
    diffusers_engine: DiffusersEngine, starter_copy: Callable[[], Model]
) -> None:
    draw = Draw(diffusers_engine)
    pixels = draw(steps=2).image.tobytes()
    diffusers_engine.load(starter_copy())
    assert diffusers_engine.loaded == "copy"
    assert draw(steps=2, model="copy").image.tobytes() == pixels
