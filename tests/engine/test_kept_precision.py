"""Denoisers whose weights are kept in fewer bits than they are computed in."""

from pathlib import Path

import pytest
import torch

from diffusion_local.domain import DeviceMemory, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.devices import Device
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.memory import GIB
from diffusion_local.engine.planning import plan
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import Source
from tests.engine.conftest import Draw


@pytest.fixture
def eight_bits() -> DiffusersEngine:
    return DiffusersEngine(Device("cpu", "cpu", "CPU"), threads=1, numbers="fp8")


def test_weights_in_eight_bits_draw_nearly_the_same_and_the_recipe_says_so(
    eight_bits: DiffusersEngine, diffusers_engine: DiffusersEngine, starter: Model
) -> None:
    pictures = []
    for engine in (eight_bits, diffusers_engine):
        engine.load(starter)
        pictures.append(Draw(engine)(steps=2))
    assert (pictures[0].facts["weights"], pictures[0].facts["dtype"]) == ("fp8", "float32")
    assert "weights" not in pictures[1].facts
    first, second = (torch.frombuffer(bytearray(each.image.tobytes()), dtype=torch.uint8) for each in pictures)
    assert 0 < (first.float() - second.float()).abs().mean() < 20


def of_size(starter: Model, tmp_path: Path, container: str, size: int) -> Model:
    from dataclasses import replace

    counts = {"transformer": 12 * 10**9, "text_encoder": 10**9, "vae": 10**8}
    sources = tuple(
        Source(slot, "denoiser" if slot == "transformer" else slot, tmp_path / slot, container=container,
               precision="Q8_0" if container == "gguf" else "bf16", count=count, size=size)
        for slot, count in counts.items()
    )  # fmt: skip
    return replace(starter, family="flux", sources=sources)


@pytest.mark.parametrize(
    ("setting", "container", "words", "denoiser"),
    [
        ("auto", "safetensors", "bf16", 24 * 10**9),
        ("fp8", "safetensors", "fp8, computed in bf16", 12 * 10**9),
        ("auto", "gguf", "Q8_0, computed in bf16", 13 * 10**9),
        ("fp8", "gguf", "Q8_0, computed in bf16", 13 * 10**9),
    ],
)
def test_what_it_takes_is_planned_and_told(
    setting: str, container: str, words: str, denoiser: int, starter: Model, tmp_path: Path
) -> None:
    model = of_size(starter, tmp_path, container, 13 * 10**9)
    room = DeviceMemory("cuda", 48 * GIB, bf16=True)
    told = plan(model, Worker("gpu0", 1, "A GPU", "idle", "", "", "", room, 48 * GIB), (), setting, "")
    assert f"({words})" in told.words
    assert denoiser < told.takes_bytes < denoiser * 1.5 + 4 * GIB
    assert precision.stored_weights(setting, model).kept.get("transformer", denoiser) == denoiser
