"""What the memory policy will do, told before the first picture: the same as the engine then does."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffusion_local.domain import DeviceMemory, Fit, Kind, Worker
from diffusion_local.engine import precision
from diffusion_local.engine.memory import GIB, Weights
from diffusion_local.engine.planning import MemoryPlan, active_workers, default_params, plan
from diffusion_local.messages import message
from diffusion_local.models.catalog import Model
from diffusion_local.models.description import Source
from diffusion_local.paths import assets
from diffusion_local.web.ui.view_models import plan_line
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


def made(model: Model, worker: Worker, *learned: Fit, wanted: str = "") -> MemoryPlan:
    return plan(model, worker, learned, "auto", wanted)


def test_the_rung_follows_the_device(large: Model) -> None:
    rungs = {total: made(large, worker(total)).rung for total in (24, 10, 8, 6, 1)}
    assert rungs == {24: "resident", 10: "vae_tiling", 8: "encoder_offload", 6: "model_offload", 1: "sequential"}


def test_it_is_told_in_words(large: Model) -> None:
    told = made(large, worker(6))
    assert told.words.startswith("gpu0: parts move to the GPU when needed (fp16), about ")
    assert told.words.endswith(" of 6.0 GiB")
    assert "large at 1024x1024 needs about" in told.why


def test_what_other_programs_hold_counts(large: Model) -> None:
    assert made(large, worker(24, free=8)).rung == "encoder_offload"


def test_how_many_blocks_stay_is_told(large: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weights({"transformer": 12 * 10**9, "vae": 8 * 10**7}, units={"transformer": (2 * 10**8,) * 57})
    monkeypatch.setattr(precision, "model_weights", lambda model: weights)
    monkeypatch.setattr(precision, "main_memory", lambda: 64 * GIB)
    told = made(large, worker(12))
    assert (told.rung, told.blocks) == ("block_streaming", "23/57")
    assert told.words.startswith(f"gpu0: {message('rung_block_streaming')}, 23 of 57 stay there (fp16), about 11.")
    assert told.why.endswith("23 of 57 stay there")
    assert "23/57" in plan_line("gpu", [told])


def test_what_does_not_fit_says_so(large: Model) -> None:
    told = made(large, worker(24, free=0.3))
    assert not told.fits
    assert told.words.endswith("which may be too little: 0.3 GiB are free")


def test_what_was_learned_and_what_is_asked_for_count(large: Model) -> None:
    failed = Fit("large", Kind.TXT2IMG, 1024, 1024, "A GPU", failed="vae_tiling", free_bytes=10 * GIB)
    assert made(large, worker(10), failed).rung == "encoder_offload"
    measured = Fit("large", Kind.TXT2IMG, 1024, 1024, "A GPU", worked="resident", peak_bytes=9 * GIB)
    assert made(large, worker(10), measured).rung == "resident"
    asked = made(large, worker(24), wanted="sequential")
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
    told = made(starter, Worker("cpu0", 1, engine.device, "idle", "", "", "", engine.room, free))
    choice = engine.plan(starter, default_params(starter), [])
    assert (told.rung, told.takes_bytes) == (choice.rung, choice.takes)
    assert told.total_bytes == engine.room.bytes > 0


def test_workers_that_run_come_first() -> None:
    runs, ended = worker(), worker(slot="gpu1", status="stopped")
    unknown = replace(worker(slot="gpu2"), room=DeviceMemory())
    assert active_workers([runs, ended, unknown]) == [runs]
    assert active_workers([ended, unknown]) == [ended]


def test_no_torch_is_needed() -> None:
    code = "import sys, diffusion_local.engine.planning; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"
