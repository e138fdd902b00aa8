"""Prompts for parts of a picture, with the starter: each part shows its own, and everything else works as ever."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_local.domain import Kind
from diffusion_local.engine import img2img, regional
from diffusion_local.engine.loops import loops_of
from diffusion_local.models.catalog import Model
from diffusion_local.options.types import Region
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.passes import check_passes
from tests.engine.test_flow_families import difference
from tests.support import PARAMS

JOB: dict[str, Any] = {"width": 128, "height": 128, "steps": 4, "guidance": 3.5, "sampler": "Euler"}
LEFT = Region("a red car", width=0.5, weight=1.0)
RIGHT = Region("a green tree", x=0.5, width=0.5, weight=1.0)


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def test_a_region_that_is_the_whole_picture_is_its_prompt(draw_at_home: Draw) -> None:
    plain = draw_at_home(**JOB, prompt="a red car").image
    assert (
        difference(draw_at_home(**JOB, prompt="a boat", regions=(Region("a red car", weight=1.0),)).image, plain) <= 1
    )
    assert draw_at_home.steps == [1, 2, 3, 4]
    assert (
        difference(draw_at_home(**JOB, prompt="a red car", regions=(Region("a boat", weight=0.0),)).image, plain) <= 1
    )
    assert difference(draw_at_home(**JOB, prompt="a red car", regions=(LEFT, RIGHT)).image, plain) > 10
    assert draw_at_home(**JOB, prompt="a red car").image.tobytes() == plain.tobytes()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.slow
def test_each_part_shows_its_own_prompt(draw_at_home: Draw, trained: Model, turned: bool) -> None:
    draw_at_home.engine.load(trained)
    job = JOB | {"width": 256, "height": 256, "steps": 8, "prompt": "a plain background"}
    colours = {"a red background": 0, "a blue background": 2}
    first, second = reversed(colours) if turned else colours
    regions = (replace(LEFT, prompt=first), replace(RIGHT, prompt=second))
    made = np.asarray(draw_at_home(**job, regions=regions).image).astype(float)
    for text, half in ((first, made[:, :128]), (second, made[:, 128:])):
        mean = half.mean((0, 1))
        assert mean.argmax() == colours[text], (text, mean)


def test_pictures_of_a_pass_share_the_regions(draw_at_home: Draw) -> None:
    check_passes(draw_at_home.engine, **JOB | {"steps": 3, "regions": (LEFT, RIGHT)})


def test_regions_change_their_prompts_from_step_to_step(draw_at_home: Draw) -> None:
    late = (replace(LEFT, prompt="[a red car:a blue boat:2]"), RIGHT)
    made = draw_at_home(**JOB, regions=late).image
    assert difference(made, draw_at_home(**JOB, regions=(LEFT, RIGHT)).image) > 1
    assert difference(made, draw_at_home(**JOB, regions=(replace(LEFT, prompt="a blue boat"), RIGHT)).image) > 1


@pytest.mark.slow
def test_without_guidance_and_in_a_second_pass(draw_at_home: Draw) -> None:
    twice = {"hires_scale": 2.0, "hires_steps": 1, "hires_upscaler": "Lanczos"}
    for more in ({"guidance": 1.0}, {"guidance": 1.0} | twice, twice | {"hires_tile": 128}):
        plain, made = (draw_at_home(**JOB | more, regions=each).image for each in ((), (LEFT, RIGHT)))
        assert difference(made, plain) > 1


def test_inpainting_keeps_what_is_not_masked(draw_at_home: Draw, at_home: Home) -> None:
    wish = {"kind": Kind.INPAINT, "source": at_home.source, "mask": at_home.mask, "strength": 0.9}
    made = draw_at_home(**JOB | wish, regions=(LEFT,)).image
    assert difference(made, draw_at_home(**JOB | wish).image) > 1
    kept = (64, 0, 128, 128)
    assert made.crop(kept).tobytes() == at_home.circle.crop(kept).tobytes()


def test_shares_follow_the_part_of_the_picture_that_is_made(at_home: Home) -> None:
    whole = regional.share_of(replace(LEFT, weight=0.5), (0, 0, 1, 1), (2, 4))
    assert whole.tolist() == [[0.5, 0.5, 0, 0]] * 2
    third = regional.share_of(Region("x", x=0.125, width=0.5, height=0.5, weight=1.0), (0, 0, 1, 1), (2, 4))
    assert third.tolist() == [[0.5, 1, 0.5, 0], [0, 0, 0, 0]]
    params = replace(PARAMS, **JOB, hires_scale=2.0, hires_tile=128, regions=(LEFT,))
    boxes = [regional.part_of(loop, None) for loop in loops_of(params)]
    assert boxes[:3] == [(0, 0, 1, 1), (0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5)]
    assert regional.share_of(LEFT, boxes[2], (1, 4)).tolist() == [[1, 1, 0, 0]]
    area = img2img.SourceCanvas(at_home.circle, area=img2img.Area(at_home.circle, at_home.left, (32, 0, 64, 64)))
    assert regional.part_of(loops_of(params)[0], area) == (0.25, 0, 0.5, 0.5)


@pytest.mark.parametrize("size", [(16, 16), (15, 21), (8, 96)])
def test_every_resolution_of_the_unet_has_its_shares(size: tuple[int, int]) -> None:
    from diffusion_local.engine import Pass
    from diffusion_local.engine.steps import Steps

    shares = [regional.share_of(each, (0, 0, 1, 1), size) for each in (LEFT, replace(LEFT, height=0.5), RIGHT)]
    found = regional.Regional([], shares, Steps(Pass([])), 1)
    for rows, columns in [*regional.halved(size)][:4]:
        each = found.shares_at(torch.zeros(1, rows * columns, 4))
        assert [tuple(one.shape) for one in each] == [(rows * columns, 1)] * 4
        assert torch.allclose(sum(each), torch.ones(rows * columns, 1), atol=1e-5)
