"""Upscaling: by Lanczos, and by a network in tiles whose edges do not show; each tile is told and can be the last."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL
from safetensors.torch import load_file, save_file

from diffusion_local.domain import Kind
from diffusion_local.engine import upscale
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import ModelUnavailable, OutOfMemory, Stopped
from diffusion_local.models.catalog import Model
from diffusion_local.options.validate import TILE
from diffusion_local.paths import assets
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.models.files import Trap
from tests.support import params

UPSCALE = {"kind": Kind.UPSCALE, "width": 256, "height": 256, "scale": 2.0, "steps": 1, "sampler": ""}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def network(at_home: Home) -> Path:
    """A small ESRGAN with random weights that doubles the size."""
    upscale.import_spandrel()
    RRDBNet = sys.modules["spandrel.architectures.ESRGAN.__arch.RRDB"].RRDBNet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=2).state_dict()
    path = at_home.settings.upscalers / "tiny.safetensors"
    save_file(weights, path)
    return path


def test_lanczos_needs_no_file_and_no_model(draw_at_home: Draw, at_home: Home) -> None:
    draw_at_home.engine.unload()
    made = draw_at_home(**UPSCALE, source=at_home.source, upscaler="Lanczos")
    assert made.image.tobytes() == at_home.circle.resize((256, 256), PIL.Resampling.LANCZOS).tobytes()
    assert draw_at_home.steps == [1]


def test_tiles_give_the_picture_that_one_pass_gives(
    draw_at_home: Draw, at_home: Home, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")
    assert (whole.image.size, draw_at_home.steps) == ((256, 256), [1])
    monkeypatch.setattr(upscale, "TILE", 64)
    tiled = draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")
    assert draw_at_home.steps == [1, 2, 3, 4]
    assert np.abs(np.asarray(tiled.image).astype(int) - np.asarray(whole.image).astype(int)).max() <= 1
    assert tiled.facts["upscaler_scale"] == 2


def test_a_scale_that_is_not_the_networks_is_reached(draw_at_home: Draw, at_home: Home, network: Path) -> None:
    made = draw_at_home(**UPSCALE | {"width": 384, "height": 384, "scale": 3.0}, source=at_home.source, upscaler="tiny")
    assert made.image.size == (384, 384)


def test_it_stops_after_a_tile(
    draw_at_home: Draw, at_home: Home, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscale, "TILE", 64)
    reports = []

    def stop(step: int, preview: object) -> None:
        reports.append(step)
        if step == 2:
            raise Stopped("cancel")

    draw_at_home.on_step = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")
    assert reports == [1, 2]


def test_out_of_memory_makes_the_tiles_smaller(
    draw_at_home: Draw, at_home: Home, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny").image
    paste, most = upscale.Upscaler._paste, [96]

    def small_memory(self: object, net: object, source: object, box: tuple[int, int, int, int], large: object) -> None:
        if box[2] - box[0] > most[0]:
            raise torch.OutOfMemoryError
        paste(self, net, source, box, large)  # type: ignore[arg-type]

    monkeypatch.setattr(upscale.Upscaler, "_paste", small_memory)
    small = draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny").image
    assert np.abs(np.asarray(small).astype(int) - np.asarray(whole).astype(int)).max() <= 1
    most[0] = 0
    with pytest.raises(OutOfMemory):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")


@pytest.mark.parametrize(
    ("content", "words"), [(b"no safetensors", "cannot be loaded"), (None, "not an upscaler of a known kind")]
)
def test_what_is_no_upscaler_is_named(
    draw_at_home: Draw, at_home: Home, network: Path, content: bytes | None, words: str
) -> None:
    if content is None:
        save_file({"something.else": torch.zeros(3)}, network)
    else:
        network.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=words):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")


def test_an_upscaler_whose_values_are_no_numbers_is_named(draw_at_home: Draw, at_home: Home, network: Path) -> None:
    weights = load_file(network)
    next(iter(weights.values()))[0] = float("nan")
    save_file(weights, network)
    with pytest.raises(ModelUnavailable, match=r"tiny\.safetensors is damaged: .* NaN or infinite"):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="tiny")


def test_a_missing_and_a_pickled_upscaler_say_what_to_do(draw_at_home: Draw, at_home: Home) -> None:
    with pytest.raises(ModelUnavailable, match=r"upscalers/none\.safetensors is missing"):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="none")
    trap = at_home.settings.home / "sprung"
    torch.save({"params": Trap(trap)}, at_home.settings.upscalers / "old.pth")
    with pytest.raises(ModelUnavailable, match="would run code when opened"):
        draw_at_home(**UPSCALE, source=at_home.source, upscaler="old")
    assert not trap.exists()


def test_an_upscaler_as_it_is_published_draws_as_its_safetensors_form(
    draw_at_home: Draw, at_home: Home, network: Path
) -> None:
    torch.save({"params_ema": load_file(network)}, at_home.settings.upscalers / "4x_published.pth")
    assert [each.ready for each in at_home.services.catalog.upscalers()] == [True, True]
    made = [draw_at_home(**UPSCALE, source=at_home.source, upscaler=name).image for name in ("tiny", "4x_published")]
    assert made[0].tobytes() == made[1].tobytes()


def test_the_bundled_spandrel_runs_upscalers_whatever_is_installed() -> None:
    found = upscale.import_spandrel()
    wheel = assets() / "wheels" / upscale.SPANDREL
    assert "site-packages" not in found.__file__
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in (wheel.parent / "README.md").read_text("utf-8")


def test_the_steps_told_at_submit_are_the_tiles(at_home: Home) -> None:
    big = at_home.add(PIL.new("RGB", (1030, 512)))
    receipt = at_home.services.studio.submit("", kind="upscale", source=big, upscaler="Lanczos", scale=4)
    job = at_home.services.studio.job(receipt.job_ids[0])
    assert (job.params.steps, job.params.width) == (1, 4120)
    assert len(list(upscale.tiles((1030, 512), TILE))) == 3


def test_the_fake_engine_upscales_too() -> None:
    made = FakeEngine(step_seconds=0).generate(params(**UPSCALE, source="a" * 64, upscaler="Lanczos"), lambda *_: None)
    assert made.image.size == (256, 256)


def test_tiles_that_differ_are_blended(at_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "TILE", 64)
    greys = iter((0.2, 0.4, 0.6, 0.8))

    def run(pixels: torch.Tensor) -> torch.Tensor:
        rows, columns = pixels.shape[-2:]
        return torch.full((1, 3, 2 * rows, 2 * columns), next(greys))

    upscaler = upscale.Upscaler("cpu")
    network = upscale.Network(Path("none"), run, 2, torch.float32)
    large = np.asarray(upscaler._by_tiles(network, at_home.circle, lambda done: None))[:, :, 0].astype(int)
    assert [large[0, 0], large[0, -1], large[-1, 0], large[-1, -1]] == [51, 102, 153, 204]
    assert max(np.abs(np.diff(large, axis=axis)).max() for axis in (0, 1)) <= 16  # of 51 and 102 without a blend


def test_a_network_never_makes_much_more_than_is_wanted(at_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that would be enlarged far beyond its final size is made smaller before."""
    sizes: list[tuple[int, int]] = []

    def run(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append((pixels.shape[-1], pixels.shape[-2]))
        return pixels.repeat_interleave(4, -1).repeat_interleave(4, -2)

    monkeypatch.setattr(upscale, "MAX_UPSCALED_PIXELS", 300 * 300)
    network = upscale.Network(Path("none"), run, 4, torch.float32)
    made = upscale.Upscaler("cpu")._fitted(network, at_home.circle, (160, 160), lambda done: None)
    assert (made.size, sizes) == ((160, 160), [(40, 40)])
