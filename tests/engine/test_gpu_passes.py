"""Passes of several pictures on a GPU, by CUDA graphs and fused kernels. Run with ``-m gpu``."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from diffusion_local.engine import Part, Pass
from diffusion_local.models.catalog import Model
from tests.support import PARAMS

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

pytestmark = pytest.mark.gpu
STEPS = 8


@pytest.fixture(params=["exact", "fast"])
def engine(request: pytest.FixtureRequest, starter: Model) -> "Iterator[DiffusersEngine]":
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    opened = DiffusersEngine(at_slot("gpu0"), speed=request.param)
    opened.load(starter)
    yield opened
    opened.unload()


def part(seed: int, prompt: str = "a red apple", **changes: Any) -> Part:
    options = {"width": 256, "height": 256, "steps": STEPS, "seed": seed, "prompt": prompt} | changes
    return Part(replace(PARAMS, **options), lambda *_: None)


def run(engine: "DiffusersEngine", *parts: Part, wanted: Callable[[], bool] | None = None) -> list[bytes]:
    crew = Pass(list(parts), wanted)
    engine.run(crew)
    while crew.held is not None:
        run(engine, part(99, "somebody waits", guidance=1.0, steps=3))
        engine.run(crew)
    assert crew.left == []
    return [each.result().image.tobytes() for each in parts]


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_places_and_resumed_passes_give_the_same_bytes(engine: "DiffusersEngine", sampler: str) -> None:
    def parts() -> list[Part]:
        return [part(seed, f"a red apple, number {seed}", sampler=sampler) for seed in range(4)]

    run(engine, *parts())  # the first steps of a size are tried out, and then recorded
    recorded = parts()
    made = run(engine, *recorded)
    assert recorded[2].result().facts["cuda_graph"]
    assert run(engine, *parts()) == made
    again = part(2, "a red apple, number 2", sampler=sampler, place=recorded[2].result().facts["place"])
    assert run(engine, again) == [made[2]]
    for after in (1, 4, 7):
        asked = iter(range(1, 100))
        assert run(engine, *parts(), wanted=lambda asked=asked, after=after: next(asked) == after) == made


def test_a_large_picture_is_decoded_by_the_fused_form(starter: Model) -> None:
    """It has more pixels than one dimension of CUDA's grid takes."""
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    made = {}
    for speed in ("exact", "fast"):
        engine = DiffusersEngine(at_slot("gpu0"), speed=speed)
        engine.load(starter)
        wide = part(1, width=2048, height=1024, steps=2)
        run(engine, wide)
        made[speed] = wide.result()
        assert "vae_retry" not in made[speed].facts
        engine.unload()
    assert made["fast"].facts["fused"] == ["denoiser", "decoder (float16)"]
    exact, fast = (np.asarray(made[speed].image, dtype=float) for speed in ("exact", "fast"))
    assert exact.shape == fast.shape == (1024, 2048, 3)
    assert np.abs(exact - fast).mean() < 2
