"""Image to image and inpainting: pixels as of diffusers' own pipelines, what is kept is kept, and it can be stopped."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine import autoencoder, img2img, samplers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.errors import ModelUnavailable, Stopped
from diffusion_local.models.catalog import Model
from scripts.starter.models import load_pipeline
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.support import PARAMS, tiers


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def difference(one: PIL.Image, other: PIL.Image) -> int:
    """The largest of any pixel's channel."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def latents_of(pipe: Any, picture: PIL.Image) -> torch.Tensor:
    with torch.no_grad():
        return autoencoder.encode(pipe.vae, img2img.SourceCanvas(picture).pixels())


@pytest.mark.parametrize("strength", tiers([0.3, 0.75, 1.0], first=[0.75]))
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler", "Euler a", "Heun", "UniPC", "DDIM", "LCM", "DPM++ 2M SDE"])
def test_image_to_image_has_the_pixels_of_diffusers_own_pipeline(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine, at_home: Home, sampler: str, strength: float
) -> None:
    steps = 4
    ours = draw_at_home(kind=Kind.IMG2IMG, source=at_home.source, strength=strength, sampler=sampler, steps=steps).image
    done = max(1, int(steps * strength))
    assert draw_at_home.steps == list(range(steps - done + 1, steps + 1))
    loaded = diffusers_engine._loaded
    assert loaded is not None
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**loaded.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = samplers.scheduler(sampler, loaded.scheduler_config)
    theirs = pipe(
        "a red apple",
        image=latents_of(pipe, at_home.circle),  # as latents, for it would draw from the seed to encode a picture
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert difference(ours, theirs) <= 1


@pytest.mark.parametrize("strength", tiers([0.5, 1.0], first=[0.5]))
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler", "Euler a"])
def test_the_latents_of_inpainting_are_those_of_diffusers_own_pipeline(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine, at_home: Home, sampler: str, strength: float
) -> None:
    ours = draw_at_home(
        kind=Kind.INPAINT, source=at_home.source, mask=at_home.mask, strength=strength, sampler=sampler, steps=4
    ).image
    loaded = diffusers_engine._loaded
    assert loaded is not None
    pipe = diffusers.StableDiffusionInpaintPipeline(**loaded.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = samplers.scheduler(sampler, loaded.scheduler_config)
    theirs = pipe(
        "a red apple",
        image=latents_of(pipe, at_home.circle),
        masked_image_latents=latents_of(pipe, at_home.circle),  # not looked at by a UNet of four channels
        mask_image=at_home.left,
        width=128,
        height=128,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    painted = (0, 0, 64 - img2img.FEATHER * 2, 128)
    assert difference(ours.crop(painted), theirs.crop(painted)) <= 1


def test_what_the_mask_keeps_is_kept_to_the_pixel(draw_at_home: Draw, at_home: Home) -> None:
    made = draw_at_home(kind=Kind.INPAINT, source=at_home.source, mask=at_home.mask, strength=1.0, steps=3).image
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()
    assert difference(made.crop((0, 0, 50, 128)), at_home.circle.crop((0, 0, 50, 128))) > 40


def test_equal_seeds_give_equal_pixels_and_a_stop_leaves_no_trace(draw_at_home: Draw, at_home: Home) -> None:
    job = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.8, "steps": 4}
    first = draw_at_home(**job).image
    txt2img = draw_at_home(steps=2).image

    def stop(step: int, preview: object) -> None:
        raise Stopped("cancel")

    keep, draw_at_home.on_step = draw_at_home.on_step, stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        draw_at_home(**job)
    draw_at_home.on_step = keep  # type: ignore[method-assign]
    assert draw_at_home(**job).image.tobytes() == first.tobytes()
    assert draw_at_home(steps=2).image.tobytes() == txt2img.tobytes()


@pytest.mark.slow
def test_little_strength_stays_near_the_source_and_much_goes_far(
    draw_at_home: Draw, at_home: Home, trained: Model
) -> None:
    draw_at_home.engine.load(trained)

    def mean_difference(strength: float) -> float:
        made = draw_at_home(kind=Kind.IMG2IMG, source=at_home.source, strength=strength, steps=10).image
        return float(np.abs(np.asarray(made).astype(int) - np.asarray(at_home.circle).astype(int)).mean())

    near, far = mean_difference(0.1), mean_difference(0.9)
    assert near < 20 < far


def test_previews_of_a_source_are_drawn(draw_at_home: Draw, at_home: Home) -> None:
    draw_at_home(kind=Kind.IMG2IMG, source=at_home.source, strength=0.5, steps=4)
    assert all(preview()().size == (128, 128) for preview in draw_at_home.previews)


def test_a_source_that_is_gone_or_damaged_is_named(draw_at_home: Draw, at_home: Home) -> None:
    path = at_home.services.sources.file(at_home.source).local_path
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelUnavailable, match="is damaged"):
        draw_at_home(kind=Kind.IMG2IMG, source=at_home.source, strength=0.5)
    path.unlink()
    with pytest.raises(ModelUnavailable, match="no longer exists"):
        draw_at_home(kind=Kind.IMG2IMG, source=at_home.source, strength=0.5)


def test_a_source_of_another_size_is_filled_in_and_transparency_is_white() -> None:
    tall = PIL.new("RGBA", (50, 200), (255, 0, 0, 0))
    canvas = img2img.make_inpainting_canvas(tall, PIL.new("RGBA", (10, 10), (255, 255, 255, 0)), PARAMS)
    assert canvas.source.size == (128, 128)
    assert canvas.source.getpixel((64, 64)) == (255, 255, 255)
    assert canvas.mask is not None
    assert canvas.mask.getextrema() == (0, 0)


@pytest.mark.parametrize(("steps", "strength", "left_out"), [(10, 0.6, 4), (10, 0.05, 9), (10, 1.0, 0), (1, 0.1, 0)])
def test_strength_says_how_many_steps_are_left_out(steps: int, strength: float, left_out: int) -> None:
    assert img2img.skipped_steps(steps, strength) == left_out


@pytest.mark.usefixtures("unloaded_after")
def test_a_vae_that_overflows_on_the_source_is_run_again_in_fp32(
    draw_at_home: Draw, at_home: Home, diffusers_engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = diffusers_engine._loaded
    assert loaded is not None
    vae, encode = loaded.pipe.vae, loaded.pipe.vae.encode
    job = {"kind": Kind.IMG2IMG, "source": at_home.source, "strength": 0.5, "steps": 2}
    right = draw_at_home(**job).image

    def overflow(pixels: torch.Tensor) -> Any:
        if vae.dtype == torch.float32:
            return encode(pixels)
        return encode(torch.full_like(pixels, float("nan")))

    vae.to(dtype=torch.bfloat16)
    monkeypatch.setattr(vae, "encode", overflow)
    made = draw_at_home(**job)
    assert made.facts["vae_retry"] == "the VAE gave no numbers in bfloat16 and was run again in float32"
    assert difference(made.image, right) <= 8  # its weights were in bfloat16 for a while


class TestNineChannels:
    """A UNet made for inpainting reads mask and masked picture beside the latents."""

    @pytest.fixture
    def inpainter(self, starter: Any, tmp_path: Path) -> Any:
        pipe = load_pipeline(starter.folder)
        config = dict(pipe.unet.config) | {"in_channels": 9}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe.register_modules(unet=diffusers.UNet2DConditionModel.from_config(config))
        pipe.save_pretrained(tmp_path / "inpainter")
        from diffusion_local.models.catalog import read_folder

        return read_folder(tmp_path / "inpainter", "inpainter", "Inpainter")

    def test_it_paints_and_keeps_and_refuses_other_work(
        self, draw_at_home: Draw, diffusers_engine: DiffusersEngine, at_home: Home, inpainter: Any
    ) -> None:
        diffusers_engine.load(inpainter)
        job = {"model": "inpainter", "source": at_home.source, "mask": at_home.mask, "kind": Kind.INPAINT, "steps": 4}
        made = draw_at_home(**job, strength=0.5).image
        assert draw_at_home.steps == [3, 4]
        assert made.crop((64, 0, 128, 128)).tobytes() == at_home.circle.crop((64, 0, 128, 128)).tobytes()
        assert draw_at_home(**job, strength=0.5).image.tobytes() == made.tobytes()
        with pytest.raises(ModelUnavailable, match="only supports inpainting"):
            draw_at_home(model="inpainter", steps=1)
