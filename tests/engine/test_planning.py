"""What the memory policy will do, told before the first picture: the same as the engine then does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from diffusion_local.domain import DeviceMemory, Fit, Kind, MemoryPlan, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.home_files import HomeFiles, additions_of, extras_of
from diffusion_local.engine.memory import GIB, Weights
from diffusion_local.engine.planning import active_workers, default_params, plan, plan_words
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import Source
from diffusion_local.options.types import Control, Detail
from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from diffusion_local.web.ui.view_models import is_roomy, memory_notice, plan_line
from tests.support import run_python

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine


def worker(total: float = 12, free: float = 0, kind: str = "cuda", slot: str = "gpu0", status: str = "idle") -> Worker:
    room = DeviceMemory(kind, int(total * GIB), bf16=True)
    return Worker(slot, 1, "A GPU", status, "", "", "", room, int((free or total) * GIB))


@pytest.fixture
def large(starter: Model, tmp_path: Path) -> Model:
    """As large as SDXL, in one file."""
    counts = {"unet": 2_567_000_000, "text_encoder": 123_000_000, "text_encoder_2": 695_000_000, "vae": 84_000_000}
    file = tmp_path / "large.safetensors"
    sources = tuple(Source(slot, slot, file, count=count) for slot, count in counts.items())
    config, defaults = assets() / "configs/sdxl", replace(starter.defaults, width=1024, height=1024)
    return replace(starter, id="large", family="sdxl", file=file, folder=config, sources=sources, defaults=defaults)


def made(model: Model, worker: Worker, *learned: Fit, rung: str = "") -> MemoryPlan:
    return plan(model, worker, learned, "auto", rung)


def test_the_rung_follows_the_device(large: Model) -> None:
    rungs = {total: made(large, worker(total)).rung for total in (24, 10, 8, 6, 1)}
    assert rungs == {24: "resident", 10: "vae_tiling", 8: "encoder_offload", 6: "model_offload", 1: "sequential"}


def test_it_is_told_in_words(large: Model) -> None:
    memory_plan = made(large, worker(6))
    assert plan_words(memory_plan).startswith("gpu0: parts move to the GPU when needed (fp16), about ")
    assert plan_words(memory_plan).endswith(" of 6.0 GiB")
    assert "large at 1024x1024 needs about" in memory_plan.why


def test_what_other_programs_hold_counts(large: Model) -> None:
    assert made(large, worker(24, free=8)).rung == "encoder_offload"


def test_how_many_blocks_stay_is_told(large: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weights({"transformer": 12 * 10**9, "vae": 8 * 10**7}, units={"transformer": (2 * 10**8,) * 57})
    monkeypatch.setattr(precision, "model_weights", lambda model: weights)
    monkeypatch.setattr(precision, "main_memory", lambda: 64 * GIB)
    memory_plan = made(large, worker(12))
    assert (memory_plan.rung, memory_plan.blocks) == ("block_streaming", "23/57")
    assert plan_words(memory_plan).startswith(
        f"gpu0: {message('rung_block_streaming')}, 23 of 57 stay there (fp16), about 11."
    )
    assert memory_plan.why.endswith("23 of 57 stay there")
    assert "23/57" in plan_line("gpu", [memory_plan])


def test_what_does_not_fit_says_so(large: Model) -> None:
    memory_plan = made(large, worker(24, free=0.3))
    assert not memory_plan.fits_memory
    assert plan_words(memory_plan).endswith("which may be too little: 0.3 GiB are free")


def test_what_was_learned_and_what_is_asked_for_count(large: Model) -> None:
    failed = Fit("large", Kind.TXT2IMG, 1024, 1024, "A GPU", failed="vae_tiling", free_bytes=10 * GIB)
    assert made(large, worker(10), failed).rung == "encoder_offload"
    measured = Fit("large", Kind.TXT2IMG, 1024, 1024, "A GPU", worked="resident", peak_bytes=9 * GIB)
    assert made(large, worker(10), measured).rung == "resident"
    asked = made(large, worker(24), rung="sequential")
    assert (asked.rung, asked.why) == ("sequential", "asked for")


def test_numbers_are_those_of_the_device(large: Model) -> None:
    half, full = (
        made(large, replace(worker(64, kind="cpu", slot="cpu0"), room=DeviceMemory("cpu", 0, b))) for b in (1, 0)
    )
    assert full.takes_bytes > 1.5 * half.takes_bytes


def test_a_model_for_inpainting_is_planned_as_such(starter: Model) -> None:
    assert default_params(replace(starter, kinds=("inpaint",))).kind is Kind.INPAINT


def test_it_is_what_the_engine_does(diffusers_engine: "DiffusersEngine", starter: Model) -> None:
    engine = diffusers_engine
    free = engine.free()
    memory_plan = made(starter, Worker("cpu0", 1, engine.device, "idle", "", "", "", engine.room, free))
    choice = engine.plan(starter, default_params(starter), [])
    assert (memory_plan.rung, memory_plan.takes_bytes) == (choice.rung, choice.takes)
    assert memory_plan.total_bytes == engine.room.bytes > 0


class Nets(HomeFiles):
    """Files of a home, with as many parameters as told."""

    def __init__(self, folder: Path, **counts: int) -> None:
        self._folder, self._counts = folder, counts

    def control(self, name: str) -> Path:
        path = self._folder / f"{name}.safetensors"
        header = {"a": {"dtype": "F16", "shape": [self._counts[name]], "data_offsets": [0, 2 * self._counts[name]]}}
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + 2 * self._counts[name])  # a file with a hole
        return path


def test_controls_count_and_are_told(large: Model, tmp_path: Path) -> None:
    plain = default_params(large)
    controlled = replace(plain, controls=(Control(image="a", model="canny"),))
    files = Nets(tmp_path, canny=1_250_000_000)
    measured = Fit("large", Kind.TXT2IMG, 1024, 1024, "A GPU", worked="resident", peak_bytes=8 * GIB)
    for total, rungs in ((24, ("resident", "resident")), (10, ("resident", "encoder_offload"))):
        memory_plan = [plan(large, worker(total), [measured], "auto", "", each, files) for each in (plain, controlled)]
        assert tuple(each.rung for each in memory_plan) == rungs
    assert memory_plan[0].additions == {}
    assert memory_plan[1].additions == {"controlnet/canny": 2_500_000_000}
    assert "of which 2.33 GiB for controlnet/canny" in plan_words(memory_plan[1])
    assert "2.5 GB of it for controlnet/canny" in memory_notice([memory_plan[1]])
    assert [is_roomy(each) for each in memory_plan] == [True, False]
    alone, beside = (plan(large, worker(24), [], "auto", "", each, files) for each in (plain, controlled))
    assert beside.takes_bytes - alone.takes_bytes == pytest.approx(1.05 * 2.5e9, abs=2)


def test_a_detector_counts_where_it_shares_the_memory(large: Model, tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    detector = settings.preprocessors / "detector"
    detector.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        (detector / name).write_text("{}")
    save_file({"a": torch.zeros(1_000_000)}, detector / "model.safetensors")
    files, plain = HomeFiles(settings), default_params(large)
    requested = replace(plain, details=(Detail("face"),))
    [extra] = additions_of(requested, files)
    assert (extra.name, extra.parameters, extra.held) == ("preprocessors/detector", 1_000_000, "after")
    assert extras_of(requested, files, shares_memory=True).vision == 1_000_000
    assert extras_of(requested, files).vision == 0
    memory_plan = plan(large, worker(24), [], "auto", "", requested, files)
    assert memory_plan.additions == {"preprocessors/detector": 4_000_000}
    assert memory_plan.takes_bytes == plan(large, worker(24), [], "auto", "", plain, files).takes_bytes


def test_workers_that_run_come_first() -> None:
    runs, ended = worker(), worker(slot="gpu1", status="stopped")
    unknown = replace(worker(slot="gpu2"), room=DeviceMemory())
    assert active_workers([runs, ended, unknown]) == [runs]
    assert active_workers([ended, unknown]) == [ended]


def test_no_torch_is_needed() -> None:
    code = "import sys, diffusion_local.engine.planning; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"
