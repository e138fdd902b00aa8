"""Which numbers a model runs in: a rule of the machine and the model, so that seeds repeat."""

import pytest

from diffusion_local.engine import precision
from diffusion_local.engine.precision import LARGE, dtype_of


@pytest.mark.parametrize(
    ("setting", "device", "family", "parameters", "bf16", "expected"),
    [
        ("auto", "cuda", "sd", LARGE, True, "float16"),
        ("auto", "cuda", "sdxl", LARGE, True, "float16"),
        ("auto", "cuda", "flux", LARGE, True, "bfloat16"),
        ("auto", "cuda", "flux", LARGE, False, "float16"),  # an old card emulates bf16
        ("auto", "cpu", "sd", LARGE - 1, True, "float32"),  # the starter: exact
        ("auto", "cpu", "sd", LARGE, True, "bfloat16"),
        ("auto", "cpu", "sd", LARGE, False, "float32"),
        ("auto", "mps", "sdxl", LARGE, True, "float32"),
        ("fp32", "cuda", "sdxl", LARGE, True, "float32"),
        ("bf16", "cpu", "sd", 1, False, "bfloat16"),
        ("fp16", "cuda", "flux", LARGE, True, "float16"),
    ],
)
def test_the_rule(setting: str, device: str, family: str, parameters: int, bf16: bool, expected: str) -> None:
    assert dtype_of(setting, device, family, parameters, bf16) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_tile amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_bf16_is_told_by_the_flags_of_the_cpu(text: str, expected: bool) -> None:
    assert precision.multiplies_bf16(text) is expected
