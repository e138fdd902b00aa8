"""The fused UNet computes what the UNet computes, and leaves it as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusion_local.engine.fused.denoiser import FusedUNet
from diffusion_local.engine.fused.operations import TorchOperations
from diffusion_local.engine.fused.packing import Unsupported, eight_bit_bytes
from tests.engine.fused import models
from tests.engine.fused.models import difference, inputs

KINDS = {"sd": models.sd, "sdxl": models.sdxl, "inpainting": lambda: models.sd(in_channels=9)}
CLOSE = 1e-4


def step(form: FusedUNet, given: dict[str, Any], **more: Any) -> torch.Tensor:
    states = given["encoder_hidden_states"]
    text, embedding = form.text(states), form.embedding(states, given.get("added_cond_kwargs"))
    return form.step(given["sample"], given["timestep"], text, embedding, **more)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("pictures", "size", "tokens"), [(2, (16, 24), 7), (1, (16, 16), 7), (4, (15, 17), 14)])
def test_a_step_is_the_same(kind: str, pictures: int, size: tuple[int, int], tokens: int) -> None:
    unet = KINDS[kind]()
    options = inputs(unet, pictures, size, tokens)
    expected = unet(**options, return_dict=False)[0]
    found = step(FusedUNet(unet, TorchOperations()), options)
    assert difference(found, expected) < CLOSE
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_by_rounding_alone(dtype: torch.dtype) -> None:
    unet = models.sdxl()
    options = inputs(unet)
    exact = unet(**options, return_dict=False)[0]
    half = models.sdxl().to(dtype)
    cast = {name: each.to(dtype) if torch.is_tensor(each) else each for name, each in options.items()}
    cast["added_cond_kwargs"] = {name: each.to(dtype) for name, each in options["added_cond_kwargs"].items()}
    own = difference(half(**cast, return_dict=False)[0], exact)
    assert difference(step(FusedUNet(half, TorchOperations()), cast), exact) < 1.5 * own


def test_residuals_of_a_controlnet_are_added() -> None:
    unet = models.sd()
    options = inputs(unet)
    torch.manual_seed(2)
    shapes = [(2, 32, 16, 24), (2, 32, 16, 24), (2, 32, 8, 12), (2, 64, 8, 12)]
    down, middle = [torch.randn(shape) for shape in shapes], torch.randn(2, 64, 8, 12)
    expected = unet(
        **options, down_block_additional_residuals=down, mid_block_additional_residual=middle, return_dict=False
    )[0]
    form = FusedUNet(unet, TorchOperations())
    found = step(form, options, down_residuals=down, middle_residual=middle)
    assert difference(found, expected) < CLOSE
    assert difference(step(form, options), expected) > 0.01


def test_a_guidance_embedding_is_read() -> None:
    unet = models.sd(time_cond_proj_dim=8)
    options = inputs(unet)
    condition = torch.randn(2, 8)
    expected = unet(**options, timestep_cond=condition, return_dict=False)[0]
    found = step(FusedUNet(unet, TorchOperations()), options, timestep_cond=condition)
    assert difference(found, expected) < CLOSE


def test_the_unet_is_as_it_was_once_the_form_is_undone() -> None:
    unet = models.sd()
    options = inputs(unet)
    before = {name: each.clone() for name, each in unet.state_dict().items()}
    expected = unet(**options, return_dict=False)[0]
    form = FusedUNet(unet, TorchOperations())
    assert not unet.conv_in.weight.is_contiguous()
    form.undo()
    assert all(each.is_contiguous() for each in unet.state_dict().values())
    assert all(torch.equal(each, before[name]) for name, each in unet.state_dict().items())
    assert torch.equal(unet(**options, return_dict=False)[0], expected)


def test_no_weight_is_held_twice() -> None:
    unet = models.sd()
    form = FusedUNet(unet, TorchOperations())
    assert form.packing.bytes == 0
    shared = {each.untyped_storage().data_ptr() for each in unet.parameters()}
    held = [form._text_weight, form._time_weight, form._first._weight]
    assert all(each is not None and each.untyped_storage().data_ptr() in shared for each in held)


def freeu() -> Any:
    unet = models.sd()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return unet


def sliced() -> Any:
    unet = models.sd()
    unet.set_attention_slice("max")
    return unet


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (freeu, "FreeU"),
        (sliced, "attention that was replaced"),
        (lambda: models.sd(class_embed_type="timestep"), "class embedding"),
        (lambda: models.sd(resnet_time_scale_shift="scale_shift"), "unusual time embedding"),
        (lambda: models.sd(act_fn="gelu"), "an unusual output"),
        (lambda: models.sd(down_block_types=("AttnDownBlock2D", "DownBlock2D")), "block of type AttnDownBlock2D"),
        (lambda: torch.nn.Linear(2, 2), "denoiser of type Linear"),
    ],
)
def test_what_has_no_fused_form_is_named_and_left_as_it_was(make: Callable[[], Any], why: str) -> None:
    unet = make()
    with pytest.raises(Unsupported, match=why):
        FusedUNet(unet, TorchOperations())
    assert all(each.is_contiguous() for each in unet.parameters())


@pytest.mark.parametrize(("pictures", "size"), [(2, (16, 24)), (1, (15, 17))])
def test_eight_bits_differ_by_their_rounding(pictures: int, size: tuple[int, int]) -> None:
    unet = models.sdxl()
    options = inputs(unet, pictures, size)
    expected = unet(**options, return_dict=False)[0]
    form = FusedUNet(unet, TorchOperations(eight_bits=True), eight_bits=True)
    assert 1e-3 < difference(step(form, options), expected) < 0.05
    assert form.packing.bytes >= eight_bit_bytes(unet) * 0.8
    form.undo()
    assert torch.equal(unet(**options, return_dict=False)[0], expected)


def test_sizes_that_eight_bits_do_not_take_stay_as_they_are() -> None:
    unet = models.sd(block_out_channels=(24, 40), attention_head_dim=2, norm_num_groups=4)
    options = inputs(unet)
    form = FusedUNet(unet, TorchOperations(eight_bits=True), eight_bits=True)
    assert difference(step(form, options), unet(**options, return_dict=False)[0]) < CLOSE
