"""Inpainting: the region of a mask at full resolution, soft masks, what lies under a mask, and extended pictures."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PIL
from PIL import ImageDraw

from diffusion_local.domain import Kind
from diffusion_local.engine import img2img, samplers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.img2img import add_noise
from diffusion_local.models.catalog import Model
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_img2img import difference, latents_of
from tests.support import params

JOB: dict[str, Any] = {"kind": Kind.INPAINT, "steps": 3, "strength": 1.0}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


@pytest.fixture
def wide(at_home: Home) -> PIL.Image:
    picture = at_home.circle.resize((320, 240))
    ImageDraw.Draw(picture).rectangle((250, 20, 300, 60), fill="white")
    return picture


def mask_of(size: tuple[int, int], box: tuple[int, int, int, int], grey: int = 255) -> PIL.Image:
    mask = PIL.new("L", size)
    mask.paste(grey, box)
    return mask


class TestOnlyMasked:
    BOX = (200, 60, 264, 124)  # with a padding of 32 a square of 128

    def test_the_region_alone_is_painted_and_the_picture_keeps_its_size(
        self, draw_at_home: Draw, at_home: Home, wide: PIL.Image
    ) -> None:
        mask = mask_of(wide.size, self.BOX)
        job = JOB | {"source": at_home.add(wide), "mask": at_home.add(mask), "inpaint_area": "Only masked"}
        made = draw_at_home(**job).image
        assert made.size == wide.size
        region = (168, 28, 296, 156)
        crops = {"source": at_home.add(wide.crop(region)), "mask": at_home.add(mask.crop(region))}
        alone = draw_at_home(**JOB | crops).image
        assert difference(made.crop(region), alone) <= 1
        rest = wide.copy()
        rest.paste(made.crop(self.BOX), self.BOX[:2])
        assert difference(made, rest) == 0
        assert difference(made.crop(self.BOX), wide.crop(self.BOX)) > 30

    def test_an_empty_mask_changes_nothing(self, draw_at_home: Draw, at_home: Home, wide: PIL.Image) -> None:
        masks = {"source": at_home.add(wide), "mask": at_home.add(PIL.new("L", wide.size))}
        assert difference(draw_at_home(**JOB | masks, inpaint_area="Only masked").image, wide) == 0


def test_a_blurred_mask_fades_on_both_sides_of_its_edge(draw_at_home: Draw, at_home: Home) -> None:
    job = JOB | {"source": at_home.source, "mask": at_home.mask}
    hard, blurred = draw_at_home(**job).image, draw_at_home(**job, mask_blur=8).image
    assert difference(hard.crop((64, 0, 128, 128)), at_home.circle.crop((64, 0, 128, 128))) == 0
    assert difference(blurred.crop((64, 0, 70, 128)), at_home.circle.crop((64, 0, 70, 128))) > 0
    assert difference(blurred.crop((100, 0, 128, 128)), at_home.circle.crop((100, 0, 128, 128))) <= 1


def test_a_soft_mask_is_differential_diffusion(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine, at_home: Home
) -> None:
    """Against its authors' loop, written for diffusers' own pipeline."""
    grey = PIL.linear_gradient("L").resize((128, 128)).rotate(90)
    steps, strength = 6, 0.7
    job = JOB | {"source": at_home.source, "mask": at_home.add(grey), "steps": steps, "strength": strength}
    ours = draw_at_home(**job, mask_edges="soft", sampler="DDIM").image
    loaded = diffusers_engine._loaded
    assert loaded is not None
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**loaded.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = samplers.scheduler("DDIM", loaded.scheduler_config)
    original = latents_of(pipe, at_home.circle)
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(7))
    kept = 1 - torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(np.array(grey))[None, None] / 255, (16, 16))
    made = int(steps * strength)

    def callback(pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index + 1 == made:
            return {}
        with_noise = add_noise(pipe.scheduler, original, noise, pipe.scheduler.timesteps[-made + index + 1 :][:1])
        masks = kept > (index + 1) / made
        return {"latents": torch.where(masks, with_noise, tensors["latents"])}

    theirs = pipe(
        "a red apple",
        image=original,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        callback_on_step_end=callback,
    ).images[0]
    inner = (12, 12, 116, 116)  # what the paste does not fade
    assert difference(ours.crop(inner), theirs.crop(inner)) <= 1
    hard = draw_at_home(**job, sampler="DDIM").image
    assert difference(ours.crop(inner), hard.crop(inner)) > 10


@pytest.mark.parametrize("content", ["fill", "latent noise", "latent nothing"])
def test_what_lies_under_the_mask_decides_the_picture(draw_at_home: Draw, at_home: Home, content: str) -> None:
    job = JOB | {"source": at_home.source, "mask": at_home.mask, "strength": 0.5}
    original, other = draw_at_home(**job).image, draw_at_home(**job, mask_content=content).image
    assert difference(original.crop((0, 0, 64, 128)), other.crop((0, 0, 64, 128))) > 20
    assert difference(original.crop((64, 0, 128, 128)), other.crop((64, 0, 128, 128))) == 0


def test_the_masked_part_is_filled_with_its_surroundings() -> None:
    picture = PIL.new("RGB", (128, 128), (200, 40, 40))
    picture.paste((0, 0, 255), (48, 48, 80, 80))
    found = img2img.filled(picture, mask_of(picture.size, (44, 44, 84, 84)))
    assert max(abs(a - b) for a, b in zip(found.getpixel((64, 64)), (200, 40, 40), strict=True)) < 12  # type: ignore[arg-type]
    assert found.getpixel((5, 5)) == (200, 40, 40)


class TestOutpaint:
    def test_the_picture_is_kept_within_a_larger_one(self, draw_at_home: Draw, at_home: Home) -> None:
        job = JOB | {"source": at_home.source, "outpaint": "left:64 bottom:32", "width": 192, "height": 160}
        made = draw_at_home(**job).image
        assert made.size == (192, 160)
        assert difference(made.crop((64, 0, 192, 128)), at_home.circle) == 0
        column = np.asarray(made.crop((0, 0, 40, 128))).astype(int)
        assert column.std() > 2  # painted, not the repeated edge

    def test_only_what_is_new_is_painted_at_full_resolution(
        self, draw_at_home: Draw, at_home: Home, wide: PIL.Image
    ) -> None:
        job = JOB | {"source": at_home.add(wide), "outpaint": "right:64", "inpaint_area": "Only masked"}
        made = draw_at_home(**job).image
        assert made.size == (384, 240)
        assert difference(made.crop((0, 0, 320, 240)), wide) == 0

    def test_a_mask_and_a_frame_go_together(self) -> None:
        source, mask = PIL.new("RGB", (100, 100), "teal"), mask_of((100, 100), (0, 0, 10, 10))
        canvas = img2img.make_inpainting_canvas(source, mask, params(outpaint="150x100", width=152, height=104))
        assert canvas.mask is not None
        assert [canvas.mask.getpixel(at) for at in ((5, 50), (30, 5), (75, 50), (145, 50))] == [255, 255, 0, 255]
        assert canvas.source.getpixel((145, 50)) == (0, 128, 128)
