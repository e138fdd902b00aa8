"""Fused forms on a GPU: every kind of work, LoRAs, and pictures that are handed over early. Run with ``-m gpu``."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from diffusion_local.domain import Kind
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora
from tests.support import PARAMS

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

pytestmark = pytest.mark.gpu
LARGE = {"steps": 8, "width": 256, "height": 256}


@pytest.fixture
def engines(at_home: Home, starter: Model) -> "Iterator[dict[str, DiffusersEngine]]":
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine
    from diffusion_local.engine.inputs import PictureInputs

    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    opened = {speed: DiffusersEngine(at_slot("gpu0"), materials=materials, speed=speed) for speed in ("exact", "fast")}
    for engine in opened.values():
        engine.load(starter)
    yield opened
    for engine in opened.values():
        engine.unload()


def compared(engines: "dict[str, DiffusersEngine]", monkeypatch: pytest.MonkeyPatch, **wanted: Any) -> Any:
    """The fast picture, which is as good as the exact one."""
    from diffusion_local.engine import painting
    from tests.engine.fused.models import difference

    latents: list[Any] = []
    decode = painting.decode
    with monkeypatch.context() as patch:
        patch.setattr(
            painting,
            "decode",
            lambda held, value, *rest: (latents.append(value.clone()), decode(held, value, *rest))[1],
        )
        exact, fast = (Draw(engines[speed])(**LARGE | wanted) for speed in ("exact", "fast"))
        assert exact.image.size == fast.image.size
    assert difference(latents[1], latents[0]) < 0.02  # a trained model, whose small roundings grow over the steps
    assert exact.facts["speed"] == "exact"
    assert (fast.facts["speed"], fast.facts["fused"]) == ("fast", ["denoiser", "decoder (float16)"])
    return fast


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "UniPC", "Heun", "DDIM"])
def test_samplers_and_guidance(
    engines: "dict[str, DiffusersEngine]", monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    for changes in ({}, {"guidance": 1.0}, {"width": 192}):
        first = compared(engines, monkeypatch, sampler=sampler, **changes)
        assert first.facts["cuda_graph"]
        again = Draw(engines["fast"])(**LARGE | {"sampler": sampler} | changes)
        assert again.image.tobytes() == first.image.tobytes()


def test_kinds_and_loras(engines: "dict[str, DiffusersEngine]", monkeypatch: pytest.MonkeyPatch, at_home: Home) -> None:
    source = {"source": at_home.source, "strength": 0.6}
    compared(engines, monkeypatch, kind=Kind.IMG2IMG, **source)
    compared(engines, monkeypatch, kind=Kind.INPAINT, mask=at_home.mask, **source)
    held = engines["exact"]._loaded
    assert held is not None
    make_lora(at_home.settings.loras / "ink.safetensors", held.pipe.unet, strength=0.1)
    bare = Draw(engines["fast"])(**LARGE).image.tobytes()
    seen = [compared(engines, monkeypatch, loras=(Lora("ink", w),)).image.tobytes() for w in (1.0, 0.5, 1.0)]
    assert seen[0] == seen[2]
    assert len({bare, *seen}) == 3
    assert Draw(engines["fast"])(**LARGE).image.tobytes() == bare


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_pictures_handed_over_early_are_the_same(engines: "dict[str, DiffusersEngine]", speed: str) -> None:
    engine = engines[speed]

    def make(seed: int) -> Any:
        return engine.generate(replace(PARAMS, **LARGE, seed=seed), lambda *_: None)

    one_by_one = [make(seed).image.tobytes() for seed in range(6)]
    pictures, threads, found = [], [], {}
    for seed in range(6):
        pictures.append(make(seed))
        threads.append(threading.Thread(target=lambda s=seed: found.update({s: pictures[s].image.tobytes()})))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert [found[seed] for seed in range(6)] == one_by_one


def test_a_picture_without_numbers_is_decoded_again_and_remembered(
    engines: "dict[str, DiffusersEngine]", monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from diffusion_local.engine.fused.forms import FusedDecoder

    engine = engines["fast"]
    expected = Draw(engines["exact"])(**LARGE)
    Draw(engine)(**LARGE)
    broken = lambda decoder, latents: torch.full((1, 3, 256, 256), torch.nan, device=latents.device)  # noqa: E731
    monkeypatch.setattr(FusedDecoder, "__call__", broken)
    picture = Draw(engine)(**LARGE)
    other = Draw(engine)(**LARGE | {"seed": 8})  # begun before the last was checked
    assert picture.image.size == other.image.size == expected.image.size
    assert picture.facts["vae_retry"] == "the VAE gave no numbers and was run again"
    assert Draw(engine)(**LARGE).facts["fused"] == ["denoiser"]


def test_a_kernel_that_fails_costs_only_its_speed(
    engines: "dict[str, DiffusersEngine]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion_local.engine.fused.kernels import TritonOperations

    def fail(*_: Any) -> Any:
        raise RuntimeError("no C compiler was found")

    expected = Draw(engines["exact"])(**LARGE).image.tobytes()
    monkeypatch.setattr(TritonOperations, "geglu", fail)
    monkeypatch.setattr(engines["fast"]._loaded.forms, "decoder", lambda *_: None)  # type: ignore[union-attr]
    for _ in range(2):
        picture = Draw(engines["fast"])(**LARGE)
        assert picture.image.tobytes() == expected
        assert picture.facts["speed"] == "exact"
