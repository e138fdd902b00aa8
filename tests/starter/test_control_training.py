"""The edge ControlNet's recipe: its measure, and the whole of it at tiny size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_local.engine import control_nets
from scripts.starter import control_evaluation, control_examples, train_control
from scripts.starter.models import TEXT_ENCODERS, TextEncoder, denoiser_config, save_json

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "starter"


def test_overlap_counts_edges_within_two_pixels_on_both_sides() -> None:
    requested = np.zeros((3, 40, 40), bool)
    requested[:, 10, 5:35] = True
    made = np.zeros_like(requested)
    made[0, 12, 5:35] = True  # two pixels off
    made[1, 15, 5:35] = True  # five pixels off
    made[2, 10, 5:20] = True  # half of it
    assert np.allclose(control_evaluation.overlap(requested, made), [1, 0, 2 / 3 * 1.04], atol=0.05)


def test_things_to_train_with_and_to_evaluate_with_differ() -> None:
    trained, held_out = control_examples.things()
    assert not set(trained) & set(held_out)
    assert len(held_out) >= 20


def test_the_control_begins_as_nothing_and_has_the_denoisers_weights() -> None:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**denoiser_config("tiny")).eval()
    control = train_control.build_control(unet)
    assert torch.equal(control.conv_in.weight, unet.conv_in.weight)
    assert torch.equal(control.down_blocks[2].resnets[0].conv1.weight, unet.down_blocks[2].resnets[0].conv1.weight)
    noisy, states = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 32)
    both = train_control.Controlled(control, unet)
    with torch.no_grad():
        plain = unet(noisy, 500, states, return_dict=False)[0]
        assert torch.allclose(both(noisy, torch.tensor([500]), states, torch.rand(1, 3, 256, 256)), plain, atol=1e-6)


@pytest.mark.slow
def test_the_whole_recipe(tmp_path: Path) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(0)
    model = tmp_path / "model"
    shutil.copytree(ASSETS, model, ignore=shutil.ignore_patterns("unet", "text_encoder", "*.jpg"))
    vocabulary = load_file(ASSETS / "text_encoder/model.safetensors")
    tokens = next(v for k, v in vocabulary.items() if k.endswith("token_embedding.weight")).shape[0]
    for part in ("unet", "text_encoder"):
        (model / part).mkdir()
    save_json(model / "unet" / "config.json", denoiser_config("tiny"))
    save_file(UNet2DConditionModel(**denoiser_config("tiny")).state_dict(), model / "unet" / "unet.safetensors")
    save_json(model / "text_encoder" / "config.json", {"num_attention_heads": TEXT_ENCODERS["tiny"]["heads"]})
    encoder = TextEncoder(tokens, **TEXT_ENCODERS["tiny"])
    save_file(encoder.state_dict(), model / "text_encoder" / "model.safetensors")
    out = tmp_path / "out"
    few = ["--steps", "2", "--batch", "2", "--pictures", "2", "--sampling-batch", "2", "--sampling-steps", "2",
           "--evaluated", "2", "--evaluation-steps", "2", "--processes", "1", "--device", "cpu"]  # fmt: skip
    train_control.main(["--model", str(model), "--out", str(out), *few])
    written = json.loads((out / "control.json").read_text())
    assert written["training"]["steps"] == 2
    assert 0 <= written["evaluation"]["with_control"] <= 1
    unet = UNet2DConditionModel(**denoiser_config("tiny"))
    control = control_nets.load(out / "controlnet" / "diffusion_pytorch_model.safetensors", unet, torch.float32)
    assert isinstance(control, ControlNetModel)
    assert control.config.block_out_channels == [32, 32, 64]
    assert (out / "control.jpg").stat().st_size > 0
