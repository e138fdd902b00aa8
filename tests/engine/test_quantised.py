"""Linear layers held in 8 or 4 bits: how far they are off, what they hold, and that adapters go on top of them."""

import peft
import pytest
import torch

from diffusion_local.engine import quantised
from diffusion_local.engine.quantised import INT8, LEVELS, NF4, Int8Linear, Nf4Linear

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(128, 64), torch.nn.Linear(64, 128, bias=False)
        self.odd = torch.nn.Linear(129, 8)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given + self.second(self.first(given))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = torch.nn.Linear(128, 128)
        self.blocks = torch.nn.ModuleList([Block(), Block()])

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        given = self.enter(given)
        for block in self.blocks:
            given = block(given)
        return given


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact.float()).norm() / exact.float().norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("scheme", "most"), [(INT8, 0.012), (NF4, 0.11)])
def test_weights_come_back_nearly_the_same(scheme: str, most: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 96).to(dtype)
    torch.nn.init.normal_(layer.weight, std=0.02)
    found = quantised.LAYERS[scheme].of(layer, "cpu")
    weight = found.dequantised(found.weight, found.scale)
    assert (weight.dtype, weight.shape) == (dtype, layer.weight.shape)
    assert 0.001 < off(weight, layer.weight) < most
    inputs = torch.randn(3, 256, dtype=dtype)
    assert off(found(inputs), layer(inputs)) < most * 1.5
    assert found(inputs).dtype == dtype


def test_nf4_is_the_published_format() -> None:
    """Numbers that are levels already come back as they are, in the order of bitsandbytes."""
    layer = torch.nn.Linear(64, 2, bias=False)
    layer.weight.data = torch.tensor(LEVELS).repeat(2, 4) * torch.tensor([[3.0], [0.5]])
    found = Nf4Linear.of(layer, "cpu")
    assert torch.equal(found.dequantised(found.weight, found.scale), layer.weight)
    assert found.weight.view(torch.uint8)[0, :8].tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF]
    assert found.scale[:, 0].tolist() == [3.0, 0.5]


def test_a_row_of_zeros_stays_one() -> None:
    for kind in (Int8Linear, Nf4Linear):
        layer = torch.nn.Linear(64, 2)
        layer.weight.data.zero_()
        found = kind.of(layer, "cpu")
        assert not found.dequantised(found.weight, found.scale).any()


@pytest.mark.parametrize(("scheme", "bytes_"), [(INT8, 1.0), (NF4, 0.5)])
def test_only_layers_of_blocks_are_replaced(scheme: str, bytes_: float) -> None:
    torch.manual_seed(0)
    model = Model()
    inputs = torch.randn(2, 128)
    exact = model(inputs)
    quantised.quantise(model, scheme)
    kinds = {name: type(each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    layer = quantised.LAYERS[scheme]
    assert kinds["enter"] is kinds["blocks.0.odd"] is torch.nn.Linear
    assert kinds["blocks.0.first"] is kinds["blocks.1.second"] is layer
    first = model.blocks[0].first
    assert first.weight.nbytes == 128 * 64 * bytes_
    assert 0 < off(model(inputs), exact) < 0.1
    assert torch.equal(model.half().float()(inputs), model(inputs))  # integers stay integers


@pytest.mark.parametrize("scheme", [INT8, NF4])
def test_a_lora_of_peft_goes_on_top(scheme: str) -> None:
    torch.manual_seed(0)
    model = Model().bfloat16()
    quantised.quantise(model, scheme)
    inputs = torch.randn(2, 128, dtype=torch.bfloat16)
    bare = model(inputs)
    config = peft.LoraConfig(r=4, target_modules=["first", "second"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    assert off(model(inputs), bare) > 0.01
