"""What only a GPU can show: fp16, and a worker on its own device. Run with ``-m gpu``."""

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from diffusion_local.catalog import Model
from diffusion_local.compose import open_house
from diffusion_local.domain import State
from diffusion_local.errors import Stopped
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
    gpu.unload()
    assert torch.cuda.memory_allocated() < 64 * 2**20


def test_a_worker_on_a_gpu_makes_pictures(settings: Settings) -> None:
    house = open_house(settings)
    receipt = house.studio.submit("a red apple", count=4)
    environ = settings.child_environ() | {"DIFFUSION_LOCAL_ENGINE": "diffusers"}
    command = [sys.executable, "-m", "diffusion_local.worker", "--slot", "gpu0"]
    with subprocess.Popen(command, env=environ) as worker:
        jobs = house.studio.wait(receipt.job_ids, 120)
        worker.terminate()
    assert [job.state for job in jobs] == [State.DONE] * 4
