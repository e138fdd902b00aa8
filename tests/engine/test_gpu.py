"""What only a GPU can show: fp16, and a worker on its own device. Run with ``-m gpu``."""

import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffusion_local.compose import open_services
from diffusion_local.db.database import Database
from diffusion_local.domain import State
from diffusion_local.engine.memory import LADDERS, RungChoice
from diffusion_local.errors import OutOfMemory, Stopped
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Lora
from diffusion_local.queue.history import FitStore
from diffusion_local.settings import Settings
from diffusion_local.worker.ladder import Ladder
from tests.engine.conftest import Draw, run_on_ladder
from tests.engine.home import Home, make_lora
from tests.support import params

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

    options = {"prompt": "a red apple", "steps": 8, "width": 256, "height": 256, "seed": 3}
    half, full = draw(**options).image, Draw(diffusers_engine)(**options).image
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
    options = {"prompt": "a red apple", "steps": 6, "width": 256, "height": 256, "seed": 3}
    gpu.load(starter, RungChoice("resident"))
    full = draw(**options).image
    gpu.load(starter, RungChoice(rung))
    first, again = draw(**options), draw(**options)
    assert first.image.tobytes() == again.image.tobytes()
    difference = np.abs(np.asarray(first.image, np.int16) - np.asarray(full, np.int16))
    assert difference.mean() < 4
    assert first.facts["peak_bytes"] > 0


@pytest.mark.parametrize(
    "rung", ["resident", "encoder_offload", "block_streaming", "model_offload", "group_offload", "sequential"]
)
def test_a_vae_that_gave_no_numbers_is_run_in_fp32_on_every_rung(
    gpu: "DiffusersEngine", starter: Model, rung: str
) -> None:
    import torch

    from diffusion_local.engine import placement

    gpu.unload()
    gpu.load(starter, RungChoice(rung))
    assert gpu._loaded is not None
    placement.vae_in_fp32(gpu._loaded.pipe, rung, "cuda:0")
    assert Draw(gpu)(steps=2).facts["vae_dtype"] == "float32"
    assert gpu._loaded.pipe.vae.dtype == torch.float32
    gpu.unload()


def test_less_is_on_the_gpu_on_a_lower_rung(gpu: "DiffusersEngine", starter: Model) -> None:
    held = []
    for rung in ("resident", "model_offload", "sequential"):
        gpu.load(starter, RungChoice(rung))
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
        small.load(starter, RungChoice("resident"))
    assert small.loaded == ""
    roomy = DiffusersEngine(at_slot("gpu0"))
    roomy.load(starter)
    assert Draw(roomy)(steps=1).image.size == (128, 128)
    roomy.unload()


# -- CUDA graphs -----------------------------------------------------------------------------------------------------

LARGE = {"steps": 6, "width": 256, "height": 256}


@pytest.fixture(scope="module")
def _without_graphs() -> "Iterator[DiffusersEngine]":
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    engine = DiffusersEngine(at_slot("gpu0"), graphs=False)
    yield engine
    engine.unload()


@pytest.fixture
def eager(_without_graphs: "DiffusersEngine", starter: Model) -> Draw:
    _without_graphs.load(starter)
    return Draw(_without_graphs)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "UniPC", "Heun", "DDIM", "LCM"])
def test_a_graph_draws_the_same_bytes(draw: Draw, eager: Draw, sampler: str) -> None:
    for changes in ({}, {"guidance": 1.0}, {"width": 192}):
        options = LARGE | {"sampler": sampler} | changes
        expected = eager(**options)
        assert "cuda_graph" not in expected.facts
        for _ in range(2):
            picture = draw(**options)
            assert picture.facts["cuda_graph"] is True
            assert picture.image.tobytes() == expected.image.tobytes(), changes
        assert draw.steps == [1, 2, 3, 4, 5, 6]


def test_a_graph_follows_loras_and_rungs(at_home: Home, starter: Model, eager: Draw) -> None:
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine
    from diffusion_local.engine.inputs import PictureInputs

    materials = PictureInputs(at_home.settings, at_home.services.files.open_source)
    engines = [DiffusersEngine(at_slot("gpu0"), materials=materials, graphs=graphs) for graphs in (True, False)]
    for engine in engines:
        engine.load(starter)
    assert engines[0]._loaded is not None
    make_lora(Path(at_home.settings.loras) / "ink.safetensors", engines[0]._loaded.pipe.unet)
    seen = []
    for loras in ((), (Lora("ink"),), (Lora("ink", 0.5),), (Lora("ink"),), ()):
        picture, expected = (Draw(engine)(**LARGE, loras=loras) for engine in engines)
        assert picture.facts["cuda_graph"]
        assert picture.image.tobytes() == expected.image.tobytes(), loras
        seen.append(picture.image.tobytes())
    assert len(set(seen)) == 3
    assert (seen[0], seen[1]) == (seen[4], seen[3])
    for rung in ("vae_tiling", "encoder_offload", "block_streaming", "model_offload", "resident"):
        engines[0].load(starter, RungChoice(rung))
        picture = Draw(engines[0])(**LARGE)
        assert picture.facts.get("cuda_graph", False) == (rung not in ("block_streaming", "model_offload"))
        assert rung == "model_offload" or picture.image.tobytes() == seen[0], rung
    for engine in engines:
        engine.unload()


def test_a_graph_does_not_run_ahead_of_a_cancel(draw: Draw) -> None:
    """Steps are told of while they are made, not all at once."""
    import torch

    options = {"steps": 60, "width": 512, "height": 512}
    draw(**options)
    reports: list[float] = []
    began = time.perf_counter()
    draw.engine.generate(params(**options), lambda step, preview: reports.append(time.perf_counter() - began))
    torch.cuda.synchronize()
    took = time.perf_counter() - began
    assert reports[29] > 0.3 * reports[-1]
    assert took > reports[-1]

    def stop(step: int, preview: Any) -> None:
        if step == 3:
            raise Stopped("cancel")

    with pytest.raises(Stopped):
        draw.engine.generate(params(**options), stop)
    assert draw(**LARGE).facts["cuda_graph"]


def test_graphs_give_their_memory_back(gpu: "DiffusersEngine", starter: Model) -> None:
    import torch

    gpu.unload()
    before = torch.cuda.memory_reserved()
    gpu.load(starter)
    draw = Draw(gpu)
    assert gpu._loaded is not None
    for width in (256, 320, 384):
        draw(**LARGE | {"width": width})
    held = gpu._loaded.graphs.bytes
    assert held > 0
    free = gpu._cache._gauge.free()
    assert gpu.free_caches()
    assert gpu._loaded.graphs.bytes == 0
    assert abs(gpu._cache._gauge.free() - free) < 64 * 2**20  # what graphs hold was counted as free
    draw(**LARGE)
    gpu.unload()
    assert torch.cuda.memory_reserved() <= before + 160 * 2**20  # the libraries' workspaces


def test_out_of_memory_with_a_graph_is_tried_again_without(
    gpu: "DiffusersEngine", starter: Model, eager: Draw, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    gpu.unload()
    gpu.load(starter)
    loaded = gpu._loaded
    assert loaded is not None
    decode = loaded.pipe.vae.decode

    def full(*args: Any, **kwargs: Any) -> Any:
        if loaded.graphs.bytes:
            return torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return decode(*args, **kwargs)

    monkeypatch.setattr(loaded.pipe.vae, "decode", full)
    ladder = Ladder(gpu, FitStore(database).of, FitStore(database).save, "resident")
    picture = run_on_ladder(ladder, starter, params(**LARGE))
    assert picture.facts["rung"] == "resident"
    assert "steps_down" not in picture.facts
    assert "cuda_graph" not in picture.facts
    assert picture.image.tobytes() == eager(**LARGE).image.tobytes()
    gpu.unload()


def test_a_recording_that_fails_costs_nothing_but_its_speed(
    gpu: "DiffusersEngine", starter: Model, eager: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from diffusion_local.engine import cuda_recording

    gpu.unload()
    gpu.load(starter)
    loaded = gpu._loaded
    assert loaded is not None
    forward = loaded.pipe.unet.forward

    def waiting(sample: Any, *args: Any, **kwargs: Any) -> Any:
        assert float(sample.float().abs().sum()) > 0  # no value can be read while recording
        return forward(sample, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(cuda_recording.SyncDetector, "_waits", lambda *args: False)
        patch.setattr(loaded.pipe.unet, "forward", waiting)
        for _ in range(2):
            picture = Draw(gpu)(**LARGE)
            assert "cuda_graph" not in picture.facts
            assert picture.image.tobytes() == eager(**LARGE).image.tobytes()
    assert loaded.graphs._refused
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(4, device="cuda").sum().item() > 0  # the random generator does not wait for a recording
    block = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    held = torch.cuda.memory_reserved()
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held - 2**30
    gpu.unload()
    gpu.load(starter)
    picture = Draw(gpu)(**LARGE)
    assert picture.facts["cuda_graph"]
    assert picture.image.tobytes() == eager(**LARGE).image.tobytes()


def test_what_waits_for_the_gpu_is_found_before_it_is_recorded(
    gpu: "DiffusersEngine", starter: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.unload()
    gpu.load(starter)
    loaded = gpu._loaded
    assert loaded is not None
    forward = loaded.pipe.unet.forward

    def waiting(sample: Any, *args: Any, **kwargs: Any) -> Any:
        assert bool(sample.isfinite().all())
        return forward(sample, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loaded.pipe.unet, "forward", waiting)
        assert "cuda_graph" not in Draw(gpu)(**LARGE).facts
    assert "denoiser" not in {part for part, _ in loaded.graphs._recorded}
    assert len(loaded.graphs._refused) == 1
    gpu.unload()


def test_a_worker_on_a_gpu_makes_pictures(settings: Settings) -> None:
    services = open_services(settings)
    receipt = services.studio.submit("a red apple", count=4)
    environ = settings.child_environ() | {"DIFFUSION_LOCAL_ENGINE": "diffusers"}
    command = [sys.executable, "-m", "diffusion_local.worker", "--slot", "gpu0"]
    with subprocess.Popen(command, env=environ) as worker:
        jobs = services.studio.wait(receipt.job_ids, 120)
        worker.terminate()
    assert [job.state for job in jobs] == [State.DONE] * 4
