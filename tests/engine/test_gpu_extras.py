"""What is put into a model, and what a picture begins from, on every rung of a GPU's memory. Run with ``-m gpu``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine.memory import LADDERS, RungChoice
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from tests.engine.conftest import Draw
from tests.engine.home import Home, make_lora

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

pytestmark = pytest.mark.gpu

RUNGS = LADDERS["cuda"]
JOB = {"prompt": "a red apple", "steps": 6, "seed": 3}


@pytest.fixture
def gpu(at_home: Home) -> "Iterator[DiffusersEngine]":
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine
    from diffusion_local.engine.inputs import PictureInputs

    engine = DiffusersEngine(
        at_slot("gpu0"), materials=PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    yield engine
    engine.unload()


@pytest.fixture(params=RUNGS)
def draw(request: pytest.FixtureRequest, gpu: "DiffusersEngine", starter: Model, at_home: Home) -> Draw:
    """On one rung, with a LoRA ``ink`` and a brighter VAE in the home."""
    from safetensors.torch import save_file

    gpu.load(starter, RungChoice("resident"))
    assert gpu._loaded is not None
    pipe = gpu._loaded.pipe
    make_lora(at_home.settings.loras / "ink.safetensors", pipe.unet)
    weights = {name: tensor.float().cpu().clone() for name, tensor in pipe.vae.state_dict().items()}
    weights["decoder.conv_out.bias"] += 0.3
    save_file(weights, Path(at_home.settings.vae) / "bright.safetensors")
    gpu.unload()
    gpu.load(starter, RungChoice(request.param))
    return Draw(gpu)


def difference(one: PIL.Image, other: PIL.Image) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def test_a_lora_changes_the_picture_repeats_and_is_taken_out(draw: Draw) -> None:
    bare = draw(**JOB).image
    inked, again = (draw(**JOB, loras=(Lora("ink"),)).image for _ in range(2))
    assert inked.tobytes() == again.tobytes()
    assert difference(inked, bare) > 1
    assert difference(draw(**JOB, loras=(Lora("ink", 0.3),)).image, inked) > 0
    assert difference(draw(**JOB).image, bare) < 1


def test_another_vae_is_used_and_put_away_again(draw: Draw, gpu: "DiffusersEngine") -> None:
    bare = draw(**JOB).image
    bright, again = (draw(**JOB, vae="bright").image for _ in range(2))
    assert bright.tobytes() == again.tobytes()
    assert np.asarray(bright).mean() > np.asarray(bare).mean() + 5
    assert gpu._loaded is not None
    assert gpu._loaded.own_vae is not None
    assert next(gpu._loaded.own_vae[0].parameters()).device.type == "cpu"
    assert draw(**JOB).image.tobytes() == bare.tobytes()


def test_pictures_begin_from_others(draw: Draw, at_home: Home) -> None:
    wish: dict[str, Any] = {**JOB, "source": at_home.source}
    near, far = (draw(**wish, kind=Kind.IMG2IMG, strength=each).image for each in (0.3, 0.9))
    assert difference(near, at_home.circle) < difference(far, at_home.circle)
    inpaint = {**wish, "kind": Kind.INPAINT, "mask": at_home.mask, "strength": 0.8}
    painted, again = draw(**inpaint).image, draw(**inpaint).image
    kept = (64, 0, 128, 128)
    assert painted.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
    assert painted.tobytes() == again.tobytes()
    assert difference(painted, at_home.circle) > 1
