"""LoRAs are added to what fused layers read, and never to the model's own weights."""

from typing import Any

import pytest
import torch
from peft import LoraConfig

from diffusion_local.engine.fused.denoiser import FusedUNet
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.fused.packing import Unsupported, lora_bytes
from tests.engine.fused import models
from tests.engine.fused.models import difference, inputs
from tests.engine.fused.test_unet import step

EVERYWHERE = ["to_q", "to_k", "to_v", "to_out.0", "proj", "proj_in", "conv1", "conv_shortcut", "time_emb_proj"]


def with_lora(unet: Any, name: str = "ink", **changes: Any) -> Any:
    config = {"r": 2, "lora_alpha": 4, "target_modules": EVERYWHERE, "init_lora_weights": False}
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(**config | changes), adapter_name=name)
    return unet.requires_grad_(False)


def test_active_loras_are_in_every_product() -> None:
    unet = with_lora(with_lora(models.sdxl()), "wash", r=3)
    own = {name: each.clone() for name, each in unet.state_dict().items() if "base_layer" in name}
    options = inputs(unet)
    found = {}
    for names, weights in ((["ink"], [1.0]), (["ink", "wash"], [0.5, 0.25]), (["wash"], [1.0])):
        unet.set_adapters(names, weights)
        expected = unet(**options, return_dict=False)[0]
        form = FusedUNet(unet, TorchOperations())
        assert form.packing.bytes > 0
        found[str(names)] = step(form, options)
        assert difference(found[str(names)], expected) < 1e-4
        form.undo()
    assert difference(found["['ink']"], found["['wash']"]) > 0.01
    assert all(torch.equal(each, unet.state_dict()[name]) for name, each in own.items())


def test_without_an_active_lora_nothing_is_copied() -> None:
    unet = models.sd()
    options = inputs(unet)
    bare = unet(**options, return_dict=False)[0]
    assert lora_bytes(unet) == 0
    with_lora(unet)
    assert lora_bytes(unet) > 0
    unet.disable_adapters()
    assert lora_bytes(unet) == 0
    assert difference(step(FusedUNet(unet, TorchOperations()), options), bare) < 1e-4


def test_the_bytes_foretold_are_those_that_are_taken() -> None:
    unet = with_lora(models.sd())
    assert FusedUNet(unet, TorchOperations()).packing.bytes == pytest.approx(lora_bytes(unet), rel=0.01)


def test_adapters_that_are_no_sum_are_refused() -> None:
    unet = with_lora(models.sd(), use_dora=True, target_modules=["to_q"])
    with pytest.raises(Unsupported, match="weight decomposition"):
        FusedUNet(unet, TorchOperations())
