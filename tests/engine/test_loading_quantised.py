"""Parts of a diffusers folder with quantised weights come out as the numbers that the scales give."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_local.engine import weights
from diffusion_local.engine.loading import load_part
from diffusion_local.errors import ModelUnavailable
from diffusion_local.models.catalog import Model, read_folder
from diffusion_local.models.folders import unsupported_quantisation
from scripts.starter.assemble import quantise_folder, quantise_rows
from scripts.starter.models import dequantise_rows

SIZES = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 2, "layers_per_block": 1} | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.AutoencoderKL(**SIZES).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def state_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def test_int8_rows_are_multiplied_by_their_scales(part: Path) -> None:
    whole = state_of(load_part(diffusers.AutoencoderKL, part, torch.float32))
    quantise_folder(part)
    found = load_part(diffusers.AutoencoderKL, part, torch.float32)
    assert not found.training
    for name, tensor in state_of(found).items():
        assert tensor.dtype == torch.float32
        if tensor.dim() > 1:
            numbers, scales = quantise_rows(whole[name])
            right = (numbers.reshape(len(numbers), -1).float() * scales).reshape(tensor.shape)
            assert torch.equal(tensor, right), name
            assert (tensor - whole[name]).norm() < 0.01 * whole[name].norm(), name
        else:
            assert torch.equal(tensor, whole[name]), name
    assert load_part(diffusers.AutoencoderKL, part, torch.bfloat16).dtype == torch.bfloat16


def test_a_tensor_that_is_missing_is_named(part: Path) -> None:
    quantise_folder(part)
    (file,) = part.glob("*.safetensors")
    state = load_file(file)
    del state["decoder.conv_out.weight"]
    save_file(state, file)
    with pytest.raises(ModelUnavailable, match=r"decoder\.conv_out\.weight"):
        load_part(diffusers.AutoencoderKL, part, torch.float32)


def test_quantised_weights_count_as_they_are_in_memory(starter: Model) -> None:
    found = weights.read(starter.folder)
    assert 21_000_000 < found.parts["unet"] < 21_200_000  # scales do not count
    assert 50 * 2**20 < starter.memory_bytes < 62 * 2**20  # two bytes a number once dequantised


@pytest.mark.parametrize(("method", "problem"), [("int8_rows", ""), ("bitsandbytes", ""), ("auto-round", "auto-round")])
def test_a_method_that_cannot_be_dequantised_is_told_at_the_scan(
    starter: Model, tmp_path: Path, method: str, problem: str
) -> None:
    for path in starter.folder.rglob("*"):
        if path.is_file():
            copy = tmp_path / path.relative_to(starter.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    config = tmp_path / "unet/config.json"
    noted = json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}
    config.unlink()
    config.write_text(json.dumps(noted))
    assert unsupported_quantisation(tmp_path) == problem
    assert read_folder(tmp_path, "m", "M").ready is not bool(problem)


def test_the_recipe_reads_the_same_numbers_as_the_app(part: Path) -> None:
    quantise_folder(part)
    (file,) = part.glob("*.safetensors")
    found, right = dequantise_rows(load_file(file)), state_of(load_part(diffusers.AutoencoderKL, part, torch.float32))
    assert found.keys() == right.keys()
    assert all(torch.equal(found[name], right[name]) for name in right)
