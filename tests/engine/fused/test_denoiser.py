"""What takes the place of a UNet's forward: prompts once a picture, and the exact way whenever anything is amiss."""

import logging
from typing import Any

import pytest
import torch

from diffusion_local.engine.fused import denoiser as denoiser_module
from diffusion_local.engine.fused.denoiser import FusedDenoiser, FusedUNet
from diffusion_local.engine.fused.operations import Quantised, TorchOperations
from diffusion_local.engine.fused.packing import Unsupported
from tests.engine.fused import models
from tests.engine.fused.models import difference, inputs


class Model:
    """A UNet with its fused form; ``parts`` are what was run, ``forgotten`` how often graphs were to be dropped."""

    def __init__(self, unet: Any, operations: Any = None) -> None:
        self.unet, self.given = unet, inputs(unet) | {"return_dict": False}
        self.exact = unet.forward
        self.expected = self.exact(**self.given)[0]
        self.parts: list[str] = []
        self.forgotten = 0
        self.denoiser = FusedDenoiser(unet, operations or TorchOperations(), self.forget)

    def forget(self) -> None:
        self.forgotten += 1

    def run(self, part: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        self.parts.append(part)
        return call(*args, **kwargs)

    def step(self, **changes: Any) -> torch.Tensor:
        found: torch.Tensor = self.denoiser.forward(self.run, self.exact, **self.given | changes)[0]
        return found


@pytest.fixture
def model() -> Model:
    return Model(models.sd())


def test_the_first_step_is_compared_and_later_ones_run_by_graphs(model: Model) -> None:
    assert model.denoiser.ready(0)
    assert model.forgotten == 1
    for _ in range(3):
        assert difference(model.step(), model.expected) < 1e-4
    assert model.parts == ["fused denoiser"] * 2
    assert model.denoiser.used


def test_keys_and_values_of_a_prompt_are_computed_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Tensor] = []
    text = FusedUNet.text
    monkeypatch.setattr(FusedUNet, "text", lambda form, states: (read.append(states), text(form, states))[1])
    model.denoiser.ready(0)
    for _ in range(3):
        model.step()
    other = torch.randn(2, 7, 24)
    changed = model.step(encoder_hidden_states=other)
    assert len(read) == 2
    assert difference(changed, model.exact(**model.given | {"encoder_hidden_states": other})[0]) < 1e-4
    model.denoiser.ready(0)  # another picture
    model.step(encoder_hidden_states=other)
    assert len(read) == 3


def test_positions_names_and_dataclasses_are_as_the_unet_has_them(model: Model) -> None:
    model.denoiser.ready(0)
    sample, timestep, states, _ = model.given.values()
    output = model.denoiser.forward(model.run, model.exact, sample, timestep, encoder_hidden_states=states)
    assert type(output) is type(model.exact(sample, timestep, states))
    assert difference(output.sample, model.expected) < 1e-4
    number = model.denoiser.forward(model.run, model.exact, sample, 501, states, return_dict=False)[0]
    assert difference(number, model.expected) < 1e-4


def test_arguments_it_does_not_know_go_to_the_unet(model: Model) -> None:
    model.denoiser.ready(0)
    mask = torch.ones(2, 7)
    mask[:, 3:] = 0
    found = model.step(encoder_attention_mask=mask)
    assert torch.allclose(found, model.exact(**model.given, encoder_attention_mask=mask)[0], atol=1e-5)
    assert model.parts == []


class Failing(TorchOperations):
    """Fails at the normalisation of so many rows."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self.error, self.left = error, after

    def add_layer_norm(self, *args: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().add_layer_norm(*args)


@pytest.mark.parametrize("after", [0, 40])
def test_a_kernel_that_fails_costs_only_its_speed(after: int, caplog: pytest.LogCaptureFixture) -> None:
    model = Model(models.sd(), Failing(RuntimeError("ptxas was not found\nmore"), after))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model.denoiser.ready(0)
            for _ in range(4):
                assert difference(model.step(), model.expected) < 1e-4
    assert caplog.messages == ["the denoiser runs the exact way: RuntimeError: ptxas was not found"]
    assert torch.equal(model.step(), model.expected)
    assert model.parts[-1] == "denoiser"
    assert not model.denoiser.used
    assert model.forgotten == 2  # its graphs were made of weights that lie elsewhere now


def test_out_of_memory_is_not_a_fault_of_the_kernels() -> None:
    model = Model(models.sd(), Failing(torch.OutOfMemoryError("CUDA out of memory"), 0))
    model.denoiser.ready(0)
    with pytest.raises(torch.OutOfMemoryError):
        model.step()
    assert model.denoiser.ready(0)


class Wrong(TorchOperations):
    def geglu(self, x: torch.Tensor, quantised: bool = False) -> Any:
        return super().geglu(x, quantised) * 1.5


class Broken(TorchOperations):
    def geglu(self, x: torch.Tensor, quantised: bool = False) -> Any:
        return super().geglu(x, quantised) * torch.nan


@pytest.mark.parametrize("operations", [Wrong(), Broken()])
def test_wrong_numbers_are_found_at_the_first_step(operations: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = Model(models.sd(), operations)
    model.denoiser.ready(0)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(model.step(), model.expected)
    assert "the fused form differs from the model by" in caplog.text
    assert not model.denoiser.ready(0)


def test_a_model_without_a_fused_form_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Model(models.sd())
    model.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with caplog.at_level(logging.WARNING):
        assert [model.denoiser.ready(0) for _ in range(2)] == [False, False]
    assert caplog.messages == ["the denoiser runs the exact way: it has FreeU"]


def test_after_the_weights_changed_it_is_built_and_compared_anew(model: Model) -> None:
    model.denoiser.ready(0)
    model.step()
    model.denoiser.drop()
    assert all(each.is_contiguous() for each in model.unet.parameters())
    with torch.no_grad():
        model.unet.conv_in.weight.mul_(2)
    expected = model.exact(**model.given)[0]
    model.denoiser.ready(0)
    model.parts.clear()
    assert difference(model.step(), expected) < 1e-4
    assert model.parts == []


def test_a_model_whose_lora_does_not_fit_is_tried_again_without_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(*_: Any) -> None:
        raise Unsupported("a LoRA with weight decomposition or a bias")

    with monkeypatch.context() as patched:
        patched.setattr(denoiser_module, "FusedUNet", unfit)
        assert not model.denoiser.ready(0)
        assert not model.denoiser.ready(0)
    assert not model.denoiser.ready(0)  # until the weights change
    model.denoiser.drop()
    assert model.denoiser.ready(0)


class WrongInEightBits(TorchOperations):
    def linear(self, x: Quantised, weight: Quantised, bias: torch.Tensor | None) -> torch.Tensor:
        return super().linear(x, weight, bias) * 1.5


def test_eight_bits_are_for_models_that_gain_by_them() -> None:
    small, large = (Model(make(), TorchOperations(eight_bits=True)) for make in (models.sd, models.sdxl))
    assert (small.denoiser.eight_bits, large.denoiser.eight_bits) == (False, True)
    assert large.denoiser.ready(10**9)
    errors = [difference(large.step(), large.expected) for _ in range(2)]
    assert 1e-3 < errors[0] < 0.05
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("operations", "room", "why"),
    [(TorchOperations(eight_bits=True), 0, "no room"), (WrongInEightBits(eight_bits=True), 10**9, "differs by")],
)
def test_without_eight_bits_the_fused_form_goes_on(
    operations: Any, room: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(models.sdxl(), operations)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert model.denoiser.ready(room)
            last = model.step()
    assert len(caplog.messages) == 1
    assert why in caplog.text.replace("differs from the model by", "differs by")
    assert difference(last, model.expected) < 1e-4
    assert model.denoiser.used
    assert not model.denoiser.eight_bits
