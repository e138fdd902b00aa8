"""What only a GPU can show: fp16, and a worker on its own device. Run with ``-m gpu``."""

import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from diffusion_local.catalog import Model
from diffusion_local.compose import open_house
from diffusion_local.domain import State
from diffusion_local.engine.memory import LADDERS, Choice
from diffusion_local.errors import OutOfMemory, Stopped
from diffusion_local.settings import Settings
from tests.engine.conftest import Draw

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> "Iterator[DiffusersEngine]":
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    engine = DiffusersEngine(at_slot("gpu0"))
    yield engine
    engine.unload()


@pytest.fixture
def draw(gpu: "DiffusersEngine", starter: Model) -> Draw:
    gpu.load(starter)
    return Draw(gpu)


def test_a_gpu_runs_in_half_precision_and_repeats_a_seed(draw: Draw) -> None:
    first, again = draw(steps=8, width=256, height=256), draw(steps=8, width=256, height=256)
    assert first.facts["dtype"] == "float16"
    assert first.image.tobytes() == again.image.tobytes()


def test_a_gpu_draws_what_the_cpu_draws(draw: Draw, diffusers_engine: "DiffusersEngine") -> None:
    import numpy as np

    wanted = {"prompt": "a red apple", "steps": 8, "width": 256, "height": 256, "seed": 3}
    half, full = draw(**wanted).image, Draw(diffusers_engine)(**wanted).image
    difference = np.abs(np.asarray(half, np.int16) - np.asarray(full, np.int16))
    assert difference.mean() < 8  # of 255: rounding that grows over the steps, not another picture


def test_a_cancelled_picture_leaves_the_gpu_usable_and_unload_frees_it(draw: Draw, gpu: "DiffusersEngine") -> None:
    import torch

    def stop(step: int, preview: object) -> None:
        raise Stopped("cancel")

    draw.on_step, keep = stop, draw.on_step  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        draw(steps=4)
    draw.on_step = keep  # type: ignore[method-assign]
    assert draw(steps=2).image.size == (128, 128)
    assert gpu._loaded is not None
    parts = [weakref.ref(part) for part in (gpu._loaded.pipe, gpu._loaded.pipe.unet, gpu._loaded.pipe.vae)]
    weights = gpu._loaded.bytes
    torch._C._cuda_clearCublasWorkspaces()  # 32 MB each: the libraries' own, not the model's
    before = torch.cuda.memory_allocated()
    gpu.unload()
    assert [part() for part in parts] == [None] * 3  # though the previews of two pictures still wait
    assert draw.previews
    assert before - torch.cuda.memory_allocated() > 0.99 * weights
    assert torch.cuda.memory_allocated() < 2**20


@pytest.mark.parametrize("rung", LADDERS["cuda"])
def test_every_rung_draws_the_same_picture(gpu: "DiffusersEngine", starter: Model, rung: str) -> None:
    import numpy as np

    draw = Draw(gpu)
    wanted = {"prompt": "a red apple", "steps": 6, "width": 256, "height": 256, "seed": 3}
    gpu.load(starter, Choice("resident"))
    full = draw(**wanted).image
    gpu.load(starter, Choice(rung))
    first, again = draw(**wanted), draw(**wanted)
    assert first.image.tobytes() == again.image.tobytes()
    difference = np.abs(np.asarray(first.image, np.int16) - np.asarray(full, np.int16))
    assert difference.mean() < 4
    assert first.facts["peak_bytes"] > 0


@pytest.mark.parametrize("rung", ["resident", "model_offload", "group_offload", "sequential"])
def test_a_vae_that_gave_no_numbers_is_run_in_fp32_on_every_rung(
    gpu: "DiffusersEngine", starter: Model, rung: str
) -> None:
    import torch

    from diffusion_local.engine import placement

    gpu.unload()
    gpu.load(starter, Choice(rung))
    assert gpu._loaded is not None
    placement.vae_in_fp32(gpu._loaded.pipe, rung, "cuda:0")
    assert Draw(gpu)(steps=2).facts["vae_dtype"] == "float32"
    assert gpu._loaded.pipe.vae.dtype == torch.float32
    gpu.unload()


def test_less_is_on_the_gpu_on_a_lower_rung(gpu: "DiffusersEngine", starter: Model) -> None:
    held = []
    for rung in ("resident", "model_offload", "sequential"):
        gpu.load(starter, Choice(rung))
        Draw(gpu)(steps=1)
        assert gpu._loaded is not None
        held.append(gpu._loaded.bytes)
    assert held[0] > 10_000_000
    assert max(held[1:]) < held[0] / 1000  # no weights: a text encoder's list of positions stays
    gpu.unload()


def test_a_limit_is_kept_and_what_does_not_fit_is_out_of_memory(starter: Model) -> None:
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    small = DiffusersEngine(at_slot("gpu0"), memory_limit=40 * 2**20)
    with pytest.raises(OutOfMemory):
        small.load(starter, Choice("resident"))
    assert small.loaded == ""
    roomy = DiffusersEngine(at_slot("gpu0"))
    roomy.load(starter)
    assert Draw(roomy)(steps=1).image.size == (128, 128)
    roomy.unload()


def test_a_worker_on_a_gpu_makes_pictures(settings: Settings) -> None:
    house = open_house(settings)
    receipt = house.studio.submit("a red apple", count=4)
    environ = settings.child_environ() | {"DIFFUSION_LOCAL_ENGINE": "diffusers"}
    command = [sys.executable, "-m", "diffusion_local.worker", "--slot", "gpu0"]
    with subprocess.Popen(command, env=environ) as worker:
        jobs = house.studio.wait(receipt.job_ids, 120)
        worker.terminate()
    assert [job.state for job in jobs] == [State.DONE] * 4
