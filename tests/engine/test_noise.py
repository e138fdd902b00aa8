"""Noise from seeds: a variation begins at its own seed and ends at the other one."""

from dataclasses import replace

import pytest
import torch

from diffusion_local.engine.conditioning import seeded_noise, slerp
from tests.support import PARAMS

SHAPE = (1, 4, 16, 16)


def drawn(seed: int, other: int | None = None, strength: float = 0.0) -> torch.Tensor:
    return seeded_noise(replace(PARAMS, seed=seed, variation_seed=other, variation_strength=strength), SHAPE)[0]


def test_a_variation_of_no_strength_is_its_own_seed() -> None:
    assert torch.equal(drawn(7, 8, 0.0), drawn(7))
    first, last = drawn(7)[0], drawn(8)[0]
    assert torch.allclose(slerp(first, last, 0.0), first, atol=1e-5)


def test_a_variation_of_whole_strength_is_the_other_seed() -> None:
    assert torch.allclose(drawn(7, 8, 1.0), drawn(8), atol=1e-5)
    assert not torch.allclose(drawn(7, 8, 1.0), drawn(7), atol=0.1)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_between_the_seeds_the_noise_stays_as_strong(strength: float) -> None:
    between = drawn(7, 8, strength)
    assert between.std().item() == pytest.approx(1.0, abs=0.1)
    near, far = (7, 8) if strength < 0.5 else (8, 7)
    if strength != 0.5:
        assert (between - drawn(near)).norm() < (between - drawn(far)).norm()


def test_equal_seeds_are_equal_and_a_variation_leaves_the_samplers_noise_alone() -> None:
    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))
    job = replace(PARAMS, seed=7, variation_seed=8, variation_strength=0.3)
    later = [
        torch.randn(4, generator=seeded_noise(each, SHAPE)[1]) for each in (job, replace(job, variation_strength=0.0))
    ]
    assert torch.equal(*later)
