import time
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_local.engine import autoencoder, previews
from diffusion_local.engine.devices import at_slot
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.errors import Stopped
from diffusion_local.models.catalog import Model
from tests.engine import tiny
from tests.support import params, soon

SIZE = previews._SIZE  # as the program has it: most tests fit models to fewer pixels


def test_latents_of_plain_colours_are_previewed_in_those_colours(
    diffusers_engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = diffusers_engine._loaded
    assert loaded is not None
    monkeypatch.setattr(previews, "_SIZE", SIZE)
    factors = previews.fit_factors(loaded.pipe.vae)
    assert factors is not None
    for colour in [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128), (0, 0, 0)]:
        pixels = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 127.5 - 1
        with torch.no_grad():
            latents = autoencoder.encode(loaded.pipe.vae, pixels)
        seen = previews.begin(latents, factors)().resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert isinstance(seen, tuple)
        assert all(abs(a - b) < 48 for a, b in zip(seen, colour, strict=True)), (seen, colour)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vae_that_gives_no_numbers_has_no_factors(value: float) -> None:
    """The picture then fails by the VAE's own error; a solver's would be another one."""
    vae = tiny.vae(4)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(value)
    assert previews.fit_factors(vae) is None


def test_factors_are_the_same_each_time_and_fitting_leaves_the_model_as_it_was(
    diffusers_engine: DiffusersEngine,
) -> None:
    loaded = diffusers_engine._loaded
    assert loaded is not None
    assert loaded.factors is not None
    state = torch.random.get_rng_state()
    again = previews.fit_factors(loaded.pipe.vae)
    assert again is not None
    assert torch.allclose(again.weights, loaded.factors.weights, atol=1e-4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.pipe.vae.dtype == torch.float32


def test_latents_on_the_cpu_are_drawn_without_torch_on_the_other_thread() -> None:
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(func)
            return func(*args, **(kwargs or {}))

    called: list[Any] = []
    with Watch():
        finish = previews.begin(torch.randn(1, 4, 128, 128).half(), previews.Factors(torch.rand(3, 5)))
    assert called
    called.clear()
    with Watch():
        assert finish().size == (256, 256)
    assert called == []


def test_a_preview_costs_little() -> None:
    factors = previews.Factors(torch.rand(3, 5))
    latents = torch.randn(1, 4, 128, 128)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert previews.begin(latents, factors)().size == (256, 256)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < soon(0.02)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.slow
def test_a_preview_that_still_waits_keeps_no_model(starter: Model, stopped: bool) -> None:
    engine = DiffusersEngine(at_slot("cpu0"))
    engine.load(starter)
    assert engine._loaded is not None
    part = weakref.ref(engine._loaded.pipe.unet)
    waiting = []

    def on_step(step: int, preview: Any) -> None:
        waiting.append(preview())
        if stopped:
            raise Stopped("cancel")

    with pytest.raises(Stopped) if stopped else nullcontext():
        engine.generate(params(steps=2), on_step)
    engine.unload()
    assert part() is None
    assert waiting[0]().size == (128, 128)
