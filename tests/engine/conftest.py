"""Engines to test; the starter is loaded once for the whole session. torch is imported only by tests that use it."""

import gc
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffusion_local.domain import Params
from diffusion_local.engine import Engine, Part, Pass, Picture
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.models.catalog import Catalog, Model, read_folder
from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from tests.support import PARAMS

if TYPE_CHECKING:
    from diffusion_local.engine.diffusers_engine import DiffusersEngine
    from diffusion_local.worker.ladder import Ladder
    from tests.engine.home import Home


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Keep collections short: an engine collects with every model, and imports leave much to walk through."""
    gc.collect()
    gc.freeze()


@dataclass
class Draw:
    """Draws with an engine and remembers the steps it was told of."""

    engine: Engine

    def __post_init__(self) -> None:
        self.steps: list[int] = []
        self.previews: list[Any] = []

    def __call__(self, **changes: Any) -> Picture:
        self.steps.clear()
        self.previews.clear()
        return self.engine.generate(replace(PARAMS, **changes), self.on_step)

    def on_step(self, step: int, preview: Callable[[], Any] | None) -> None:
        self.steps.append(step)
        self.previews.append(preview)


def run_on_ladder(
    ladder: "Ladder", model: Model, params: Params, steps: list[int] | None = None, say: Callable[[str], None] = print
) -> Picture:
    """One picture, on whichever rung it fits; ``steps`` are those of the run that made it."""
    steps = [] if steps is None else steps
    part = Part(params, lambda step, preview: steps.append(step))
    ladder.run(model, Pass([part]), lambda share: None, steps.clear, say)
    return part.result()


@pytest.fixture(scope="session")
def trained() -> Model:
    """The starter as it is shipped."""
    return Catalog(assets() / "starter", Path("no-such-folder")).default


@pytest.fixture(scope="session")
def starter(trained: Model) -> Model:
    """The model that most tests draw with; a module whose tests need no trained weights replaces it by ``narrow``."""
    return trained


@pytest.fixture(scope="session")
def narrow(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The starter with few and random weights in its UNet and VAE: draws in a fifth of the time.

    Its pictures show nothing, but they depend on prompt, seed, source and mask as those of the starter do.
    """
    import diffusers
    import torch

    folder = tmp_path_factory.mktemp("narrow")
    for path in trained.folder.iterdir():
        if path.name not in ("unet", "vae"):
            (folder / path.name).symlink_to(path.resolve())
    config = json.loads((trained.folder / "unet/config.json").read_text())
    config.pop("quantization_config", None)
    sizes = {"block_out_channels": (16, 32, 32), "attention_head_dim": 2, "norm_num_groups": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        diffusers.UNet2DConditionModel.from_config(config | sizes).save_pretrained(folder / "unet")
        config = json.loads((trained.folder / "vae/config.json").read_text())
        sizes = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
        diffusers.AutoencoderKL.from_config(config | sizes).save_pretrained(folder / "vae")
    found = read_folder(folder, trained.id, trained.name)
    return replace(trained, folder=folder, precision=found.precision, size_bytes=found.size_bytes)


@pytest.fixture(scope="session")
def _diffusers() -> "Iterator[DiffusersEngine]":
    import torch
    from diffusers.hooks import group_offloading

    from diffusion_local.engine import previews
    from diffusion_local.engine.devices import at_slot
    from diffusion_local.engine.diffusers_engine import DiffusersEngine

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(previews, "_SIZE", 32)  # pixels to which each model that is loaded is fitted, instead of 96
        if not torch.cuda.is_available():  # diffusers' pipelines look for these hooks in all modules, again and again
            patch.setattr(group_offloading, "_get_top_level_group_offload_hook", lambda module: None)
        yield DiffusersEngine(at_slot("cpu0"), threads=1)
    torch.set_num_threads(before)


@pytest.fixture
def diffusers_engine(
    _diffusers: "DiffusersEngine", starter: Model, request: pytest.FixtureRequest
) -> "DiffusersEngine":
    """With the starter loaded, whatever the test before did; a test with a model of its own, ``tiny``, loads that."""
    if "tiny" not in request.fixturenames:
        _diffusers.load(starter)
    return _diffusers


@pytest.fixture
def unloaded_after(diffusers_engine: "DiffusersEngine") -> Iterator[None]:
    """For a test that changes the weights of the starter, which the other tests share."""
    yield
    diffusers_engine.unload()


@pytest.fixture(params=["fake", "diffusers"])
def engine(request: pytest.FixtureRequest, starter: Model) -> Engine:
    if request.param == "diffusers":
        return request.getfixturevalue("diffusers_engine")
    fake = FakeEngine(step_seconds=0)
    fake.load(starter)
    return fake


@pytest.fixture
def draw(engine: Engine) -> Draw:
    return Draw(engine)


@pytest.fixture
def params(starter: Model) -> Params:
    return PARAMS


@pytest.fixture
def starter_copy(starter: Model, tmp_path: Path) -> "Callable[[], Model]":
    """Makes a copy of the starter that a test may damage; files are links until they are replaced."""

    def copy() -> Model:
        folder = tmp_path / "copy"
        for name in ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"):
            source = starter.folder / name
            for path in source.rglob("*") if source.is_dir() else [source]:
                if path.is_file():
                    target = folder / path.relative_to(starter.folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(path.resolve())
        return read_folder(folder, "copy", "Copy")

    return copy


@pytest.fixture
def at_home(settings: Settings) -> "Home":
    from tests.engine.home import Home

    return Home(settings)


@pytest.fixture
def draw_at_home(
    diffusers_engine: "DiffusersEngine", at_home: "Home", monkeypatch: pytest.MonkeyPatch
) -> Iterator[Draw]:
    """Draws with the starter and what lies in the home. The starter is loaded anew after a test that put files in."""
    from diffusion_local.engine import adapters
    from diffusion_local.engine.inputs import PictureInputs

    put_in: list[str] = []
    opened = adapters.load_named

    def noted(what: str, *arguments: Any) -> Any:
        put_in.append(what)
        return opened(what, *arguments)

    monkeypatch.setattr(adapters, "load_named", noted)
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    yield Draw(diffusers_engine)
    if put_in:
        diffusers_engine.unload()
    diffusers_engine._upscaler.unload()


@pytest.fixture
def vision_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that look at pictures run here: a process of their own takes seconds to import what they need."""
    from diffusion_local.engine import vision, vision_models

    def look(command: list[str], sent: bytes, check: Callable[[], None]) -> subprocess.CompletedProcess[bytes]:
        answer, errors = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with monkeypatch.context() as streams:
            streams.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
            streams.setattr(sys, "stdout", answer)
            streams.setattr(sys, "stderr", errors)
            status = vision.main(*command[3:])
        result = answer.detach().getvalue()  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(command, status, result, errors.getvalue().encode())

    monkeypatch.setattr(vision_models, "run_child", look)
