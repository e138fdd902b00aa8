"""What can be known of recording without a GPU: which operations would make the CPU wait for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusion_local.engine.cuda_recording import SyncDetector


def found(work: Callable[[torch.Tensor], Any]) -> str:
    numbers = torch.arange(4.0)
    with SyncDetector("cpu") as waits:
        work(numbers)
    return waits.found


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("_local_scalar_dense", lambda numbers: numbers[1].item()),
        ("_local_scalar_dense", lambda numbers: bool(numbers.sum() > 3)),
        ("nonzero", lambda numbers: numbers.nonzero()),
        ("index", lambda numbers: numbers[numbers > 1]),
        ("_to_copy", lambda numbers: numbers.to("meta")),
        ("copy_", lambda numbers: torch.empty(4, device="meta").copy_(numbers)),
    ],
)
def test_what_makes_the_cpu_wait_is_named(name: str, work: Callable[[torch.Tensor], Any]) -> None:
    assert found(work) == f"aten::{name} makes the CPU wait for the device"


@pytest.mark.parametrize(
    "work",
    [
        lambda numbers: numbers * 2 + numbers.sum(),
        lambda numbers: numbers[torch.tensor([1, 2])],
        lambda numbers: numbers.to(torch.float64).clone(),
        lambda numbers: torch.nn.functional.scaled_dot_product_attention(*[numbers.view(1, 1, 2, 2)] * 3),
        lambda numbers: torch.nn.functional.interpolate(numbers.view(1, 1, 2, 2), scale_factor=2.0),
    ],
)
def test_what_a_device_does_by_itself_is_not(work: Callable[[torch.Tensor], Any]) -> None:
    assert found(work) == ""


def test_what_happens_on_another_device_does_not_count() -> None:
    with SyncDetector("cuda") as waits:
        torch.ones(2).sum().item()
    assert waits.found == ""
