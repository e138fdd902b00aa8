"""The configurations that come with the program have the sizes of published files, compared without their weights."""

import importlib
import json
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

from diffusion_local.engine import single_file
from diffusion_local.paths import assets
from tests.models.headers import tensors_of

CONFIGS = assets() / "configs"
DENOISERS = {
    "flux_dev": "models/flux1-dev.safetensors",
    "flux_schnell": "models/flux1-schnell.safetensors",
    "sd3": "models/sd3_medium.safetensors",
    "sd35_medium": "models/sd3.5_medium.safetensors",
    "sd35_large": "models/sd3.5_large.safetensors",
    "flux2_klein_4b": "models/flux-2-klein-4b.safetensors",
    "z_image": "models/z_image_turbo_bf16.safetensors",
}
ENCODERS = [
    ("flux_dev", "text_encoder", "models/te/clip_l.safetensors"),
    ("flux_dev", "text_encoder_2", "models/te/t5xxl_fp16.safetensors"),
    ("sd35_large", "text_encoder_3", "models/te/t5xxl_fp16.safetensors"),
    ("flux2_klein_4b", "text_encoder", "models/te/qwen_3_4b.safetensors"),
    ("z_image", "text_encoder", "models/te/qwen_3_4b.safetensors"),
]


def state_of(file: str, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): torch.empty(shape, device="meta")
        for name, (_, shape) in tensors_of(file).items()
        if name.startswith(prefix)
    }


def class_of(architecture: str, slot: str) -> Any:
    library, name = json.loads((CONFIGS / architecture / "model_index.json").read_text())[slot]
    return getattr(importlib.import_module(library), name)


def sizes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in state.items()}


@pytest.mark.parametrize("architecture", DENOISERS)
def test_a_transformer_has_each_tensor_of_its_file(architecture: str) -> None:
    cls, file = class_of(architecture, "transformer"), DENOISERS[architecture]
    config = cls.load_config(CONFIGS / architecture / "transformer")
    with init_empty_weights(include_buffers=True):
        empty = cls.from_config(config)
    prefix = "model.diffusion_model." if architecture.startswith("sd3") else ""
    convert = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"]
    found = sizes(convert(checkpoint=state_of(file, prefix), config=config))
    assert {name: found.get(name) for name in empty.state_dict()} == sizes(empty.state_dict())


@pytest.mark.parametrize(("architecture", "slot", "file"), ENCODERS)
def test_a_text_encoder_has_each_tensor_of_its_file(architecture: str, slot: str, file: str) -> None:
    cls = class_of(architecture, slot)
    config = cls.config_class.from_pretrained(CONFIGS / architecture / slot)
    with init_empty_weights():
        empty = cls(config)

    def bare(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        tied = ("lm_head.weight", "encoder.embed_tokens.weight")
        kept = {name: shape for name, shape in sizes(state).items() if name not in tied}
        return {name.removeprefix("text_model.").removeprefix("model."): shape for name, shape in kept.items()}

    expected, found = bare(empty.state_dict()), bare(state_of(file))
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.parametrize("architecture", ["flux_dev", "z_image", "sd35_large"])
def test_a_vae_has_each_tensor_of_its_file(architecture: str) -> None:
    cls = class_of(architecture, "vae")
    config = cls.load_config(CONFIGS / architecture / "vae")
    with init_empty_weights():
        empty = cls.from_config(config)
    found = sizes(single_file.from_ldm_vae(state_of("parts/flux-ae.safetensors"), config))
    same = {name: tuple(length for length in shape if length > 1) for name, shape in sizes(empty.state_dict()).items()}
    assert {name: tuple(each for each in found.get(name, ()) if each > 1) for name in same} == same
