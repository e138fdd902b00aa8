"""FLUX Fill as an inpainting model: tiny, with random weights, reading what diffusers' own pipeline reads."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from diffusion_local.domain import Kind
from diffusion_local.engine import img2img
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.families import flux as family
from diffusion_local.engine.inputs import PictureInputs
from diffusion_local.models.catalog import Model, read_folder
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_flow_families import difference, flux

JOB: dict[str, Any] = {
    "model": "tiny", "sampler": "Euler", "steps": 2, "prompt": "a cat", "guidance": 30.0, "width": 128, "height": 128,
    "kind": Kind.INPAINT, "strength": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture(scope="module")
def tiny(starter: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = flux(starter).components
        scale = 2 ** (len(parts["vae"].config.block_out_channels) - 1)
        config = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")} | {
            "in_channels": 32 + 4 * scale**2,
            "out_channels": 16,
        }
        parts["transformer"] = diffusers.FluxTransformer2DModel(**config)
        folder: Path = tmp_path_factory.mktemp("models") / "tiny"
        diffusers.FluxFillPipeline(
            **{k: v for k, v in parts.items() if "image_encoder" not in k and k != "feature_extractor"}
        ).save_pretrained(folder)
    model = read_folder(folder, "tiny", "Tiny")
    assert (model.problem, model.architecture, model.kinds) == ("", "flux_fill", (Kind.INPAINT,))
    return model


@pytest.fixture
def draw(diffusers_engine: DiffusersEngine, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch) -> Draw:
    monkeypatch.setattr(
        diffusers_engine, "_materials", PictureInputs(at_home.settings, at_home.services.files.open_source)
    )
    diffusers_engine.load(tiny)
    return Draw(diffusers_engine)


def test_it_reads_the_mask_and_the_masked_picture_as_diffusers_own_pipeline(
    draw: Draw, tiny: Model, at_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    pipe = diffusers.FluxFillPipeline.from_pretrained(tiny.folder, dtype=torch.float32)
    canvas = img2img.SourceCanvas(at_home.circle, at_home.left)
    made = family.fill_conditions(draw.engine._loaded.pipe, canvas)  # type: ignore[attr-defined]
    mask = pipe.mask_processor.preprocess(at_home.left, height=128, width=128)
    masked = pipe.image_processor.preprocess(at_home.circle, height=128, width=128) * (1 - mask)
    cells, latents = pipe.prepare_mask_latents(mask, masked, 1, 4, 1, 128, 128, torch.float32, "cpu", None)
    assert made.shape[-1] == latents.shape[-1] + cells.shape[-1]
    assert torch.equal(made[..., latents.shape[-1] :], cells)
    assert torch.allclose(made[..., : latents.shape[-1]], latents, atol=1e-3)


def test_it_paints_what_is_masked_and_keeps_the_rest(draw: Draw, at_home: Home) -> None:
    wish = JOB | {"source": at_home.source, "mask": at_home.mask}
    made = draw(**wish).image
    assert draw.steps == [1, 2]
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
    assert difference(made, at_home.circle) > 5
    assert draw(**wish | {"strength": 0.5}).image.tobytes() != made.tobytes()
    wider = draw(**JOB | {"source": at_home.source, "outpaint": "right:64", "width": 192}).image
    assert (wider.size, wider.crop((0, 0, 128, 128)).tobytes()) == ((192, 128), at_home.circle.tobytes())
