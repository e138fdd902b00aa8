"""The Triton kernels against plain torch in fp32; ``test_kernels`` runs this in a process of its own."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_local.engine.fused.operations import Quantised, TorchOperations
from tests.engine.fused import models
from tests.engine.fused.models import difference

EXPECTED = TorchOperations()
CLOSE = 2e-6
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


@pytest.fixture(scope="module")
def kernels() -> Any:
    from diffusion_local.engine.fused import kernels

    if DEVICE == "cpu":
        mend_interpreter()
    return kernels


def mend_interpreter() -> None:
    """Round to 8 bits as a GPU does: Triton's interpreter (3.9) loses the carry into the exponent."""
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter._convert_float

    def convert(values: Any, value: Any, wanted: Any, rounding: Any) -> Any:
        if (value, wanted) != (tl.float32, tl.float8e4nv):
            return own(values, value, wanted, rounding)
        with torch.device("cpu"):
            rounded = torch.from_numpy(values.view(np.float32).copy()).to(torch.float8_e4m3fn)
        return rounded.view(torch.uint8).numpy()

    interpreter._convert_float = convert


@pytest.fixture(scope="module")
def operations(kernels: Any) -> Any:
    return kernels.TritonOperations()


def numbers(*shape: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(*shape) * 2 + mean


def norm_of(channels: int, groups: int) -> torch.nn.GroupNorm:
    return models.randomised(torch.nn.GroupNorm(groups, channels, eps=1e-5))


#: A group that one program holds, and larger ones that take three passes; sizes that fill no tile.
SIZES = [(2, 63, 40, 4), (1, 256, 96, 4), (2, 1, 32, 8), (1, 2100, 72, 8), (3, 600, 320, 8), (1, 4500, 16, 4)]


@pytest.mark.parametrize(("pictures", "pixels", "channels", "groups"), SIZES)
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(operations: Any, pictures: int, pixels: int, channels: int, groups: int, silu: bool) -> None:
    torch.manual_seed(0)
    x, norm = numbers(pictures, pixels, channels, mean=3.0), norm_of(channels, groups)
    wide = numbers(pictures, 2 * channels)
    for shift in (None, wide[:, channels:], wide[0, :channels].expand(pictures, -1)):
        found = operations.group_norm(x, norm, silu, shift)
        assert difference(found, EXPECTED.group_norm(x, norm, silu, shift)) < CLOSE


def test_both_ways_of_group_norm_are_met(kernels: Any) -> None:
    held = [
        kernels.power_of_two(pixels) * kernels.power_of_two(channels // groups) <= kernels.WHOLE_GROUP
        for _, pixels, channels, groups in SIZES
    ]
    assert 2 <= sum(held) <= len(held) - 2


@pytest.mark.parametrize("channels", [24, 320, 1000])
@pytest.mark.parametrize("biased", [False, True])
def test_add(operations: Any, channels: int, biased: bool) -> None:
    torch.manual_seed(0)
    x, y = numbers(2, 33, channels), numbers(2, 33, channels)
    bias = numbers(channels) if biased else None
    assert difference(operations.add(x, y, bias), EXPECTED.add(x, y, bias)) < CLOSE


@pytest.mark.parametrize("channels", [24, 320, 1000])
@pytest.mark.parametrize("adding", [False, True])
def test_add_layer_norm(operations: Any, channels: int, adding: bool) -> None:
    torch.manual_seed(0)
    norm = models.randomised(torch.nn.LayerNorm(channels))
    x, y = numbers(2, 9, channels, mean=5.0), numbers(2, 9, channels) if adding else None
    for found, expected in zip(operations.add_layer_norm(x, y, norm), EXPECTED.add_layer_norm(x, y, norm), strict=True):
        assert difference(found, expected) < CLOSE


@pytest.mark.parametrize("channels", [16, 24, 320, 1280, 2560])
def test_geglu(operations: Any, channels: int) -> None:
    torch.manual_seed(0)
    x = numbers(2, 5, 2 * channels)
    assert difference(operations.geglu(x), EXPECTED.geglu(x)) < CLOSE


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_written_has_the_type_of_what_is_read(operations: Any, dtype: torch.dtype) -> None:
    x = numbers(1, 40, 32).to(dtype)
    norm = norm_of(32, 4).to(dtype)
    assert operations.group_norm(x, norm, True).dtype == dtype
    assert difference(operations.group_norm(x, norm, True), EXPECTED.group_norm(x, norm, True)) < 1e-3


def test_every_number_is_written_and_nothing_else(operations: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs begin as NaN."""
    empty, like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: like(*args, **kwargs).fill_(torch.nan))
    x = numbers(1, 2100, 72)
    assert operations.group_norm(x, norm_of(72, 8), True).isfinite().all()
    assert operations.add(x, x).isfinite().all()
    assert operations.geglu(x).isfinite().all()
    total, normed = operations.add_layer_norm(x[:, :20], x[:, 20:40].contiguous(), torch.nn.LayerNorm(72))
    assert total.isfinite().all()
    assert normed.isfinite().all()


def numbers_of(found: Quantised) -> torch.Tensor:
    return found.values.float() * found.scales.view(*found.values.shape[:-1], 1)


@pytest.mark.parametrize("channels", [16, 48, 320, 1280])
def test_quantised_rows(operations: Any, channels: int) -> None:
    """Rounding at the edge between two 8-bit numbers may go either way."""
    torch.manual_seed(0)
    x, wide = numbers(2, 9, channels, mean=1.0), numbers(2, 9, 2 * channels)
    norm = models.randomised(torch.nn.LayerNorm(channels))
    pairs = [
        (operations.quantise(x), EXPECTED.quantise(x)),
        (operations.geglu(wide, True), EXPECTED.geglu(wide, True)),
        (operations.add_layer_norm(x, x, norm, True)[1], EXPECTED.add_layer_norm(x, x, norm, True)[1]),
    ]
    for found, expected in pairs:
        assert found.dtype == torch.float32
        assert difference(found.scales, expected.scales) < CLOSE
        assert difference(numbers_of(found), numbers_of(expected)) < 2e-3
