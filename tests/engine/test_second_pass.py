"""The second pass at a larger size: pixels as of diffusers' own pipelines, tiles without seams, and bit for bit after a
pass was put aside."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine import Engine, Part, Pass, loops, samplers
from diffusion_local.engine.diffusers_engine import DiffusersEngine
from diffusion_local.engine.loops import Mosaic, loops_of
from diffusion_local.errors import Stopped
from diffusion_local.models.catalog import Model
from diffusion_local.options.hires import SecondPass, schedule, tiles
from tests.engine.conftest import Draw
from tests.engine.home import Home
from tests.engine.test_img2img import difference, latents_of
from tests.support import PARAMS, tiers

TWICE: dict[str, Any] = {"steps": 2, "hires_scale": 1.5, "hires_steps": 2, "hires_strength": 0.5}
TILED = TWICE | {"hires_tile": 128, "hires_upscaler": "Lanczos"}


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def second_by_diffusers(engine: DiffusersEngine, latents: torch.Tensor, sampler: str) -> PIL.Image:
    loaded = engine._loaded
    assert loaded is not None
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**loaded.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = samplers.scheduler(sampler, loaded.scheduler_config)
    found: PIL.Image = pipe(
        "a red apple",
        image=latents,
        strength=0.5,
        num_inference_steps=4,  # of which two are made
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    return found


def first_by_diffusers(engine: DiffusersEngine, sampler: str, output: str) -> Any:
    loaded = engine._loaded
    assert loaded is not None
    pipe = diffusers.StableDiffusionPipeline(**loaded.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = samplers.scheduler(sampler, loaded.scheduler_config)
    return pipe(
        "a red apple",
        width=128,
        height=128,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        output_type=output,
    ).images


@pytest.mark.parametrize("sampler", tiers(["DPM++ 2M", "Euler a"], first=["Euler a"]))
def test_latents_enlarged_between_the_passes_give_the_pixels_of_diffusers(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine, sampler: str
) -> None:
    ours = draw_at_home(**TWICE, hires_upscaler="Latent", sampler=sampler).image
    assert ours.size == (192, 192)
    assert draw_at_home.steps == [1, 2, 3, 4]
    latents = first_by_diffusers(diffusers_engine, sampler, "latent")
    large = torch.nn.functional.interpolate(latents, scale_factor=1.5, mode="bilinear")
    assert difference(ours, second_by_diffusers(diffusers_engine, large, sampler)) <= 1


def test_pixels_enlarged_between_the_passes_give_the_pixels_of_diffusers(
    draw_at_home: Draw, diffusers_engine: DiffusersEngine
) -> None:
    ours = draw_at_home(**TWICE, hires_upscaler="Lanczos").image
    [first] = first_by_diffusers(diffusers_engine, "DPM++ 2M", "pil")
    loaded = diffusers_engine._loaded
    assert loaded is not None
    large = latents_of(loaded.pipe, first.resize((192, 192), PIL.Resampling.LANCZOS))
    assert difference(ours, second_by_diffusers(diffusers_engine, large, "DPM++ 2M")) <= 1


def test_a_source_kept_as_it_is_goes_into_the_second_pass_at_once(draw_at_home: Draw, at_home: Home) -> None:
    job = {"kind": Kind.IMG2IMG, "source": at_home.source}
    twice = TWICE | {"hires_upscaler": "Lanczos"}
    whole = draw_at_home(**job, **twice, strength=0.0).image
    assert draw_at_home.steps == [3, 4]
    alone = draw_at_home(**job, width=192, height=192, steps=4, strength=0.5).image
    assert difference(whole, alone) <= 1
    draw_at_home(**job, **twice, strength=0.5)
    assert draw_at_home.steps == [2, 3, 4]


def test_tiles_have_previews_of_the_whole_picture(draw_at_home: Draw) -> None:
    made = draw_at_home(**TILED).image
    assert made.size == (192, 192)
    assert draw_at_home.steps == list(range(1, 2 + 4 * 2 + 1))
    assert {preview()().size for preview in draw_at_home.previews} == {(128, 128), (192, 192)}


# -- seams ----------------------------------------------------------------------------------------------------------


def steps_across(picture: PIL.Image, side: int) -> tuple[float, float]:
    """Mean difference of neighbouring columns: where tiles begin or end, and elsewhere."""
    pixels = np.asarray(picture.convert("L")).astype(float)
    changes = np.abs(np.diff(pixels, axis=1)).mean(axis=0)
    edges = {edge for left, _, right, _ in tiles(picture.size, side) for edge in (left, right)} - {0, picture.width}
    at = np.array([edge - 1 for edge in sorted(edges)])
    return float(changes[at].mean()), float(np.delete(changes, at).mean())


@pytest.mark.slow  # draws four pictures of many tiles; the next test sees how tiles are blended
def test_tiles_show_no_seams(draw_at_home: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    def ratio() -> float:
        made = [draw_at_home(**TILED | {"hires_strength": 0.6, "hires_steps": 3}, seed=seed).image for seed in (1, 2)]
        at, elsewhere = np.mean([steps_across(each, 128) for each in made], axis=0)
        return float(at / elsewhere)

    assert ratio() < 1.5
    monkeypatch.setattr(loops, "ramp", lambda size, overlap: PIL.new("L", size, 255))
    assert ratio() > 4  # the measure finds seams where there are some


def test_unlike_tiles_are_blended_over_their_overlap() -> None:
    params = replace(PARAMS, **TILED)
    mosaic = Mosaic([PIL.new("RGB", (192, 192))])
    for number, loop in enumerate(loops_of(params)[1:]):
        mosaic.paste(loop, [PIL.new("RGB", (128, 128), (60 * number, 0, 0))])
    pixels = np.asarray(mosaic.pictures[0])[:, :, 0].astype(int)
    assert [pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]] == [0, 60, 120, 180]
    assert max(np.abs(np.diff(pixels, axis=axis)).max() for axis in (0, 1)) <= 3  # 120 levels over 64 pixels


@pytest.mark.parametrize("side", [128, 192, 256, 512])
@pytest.mark.parametrize("size", [(192, 256), (704, 128), (1024, 1000), (8192, 4096)])
def test_tiles_cover_a_picture_and_overlap(size: tuple[int, int], side: int) -> None:
    boxes = list(tiles(size, side))
    assert len(boxes) == SecondPass(size, 1, side).count
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {
        (min(size[0], side), min(size[1], side))
    }
    for axis, length in enumerate(size):
        spans = sorted({(box[axis], box[axis + 2]) for box in boxes})
        assert (spans[0][0], spans[-1][1]) == (0, length)
        assert all(before[1] - after[0] >= side // 8 for before, after in itertools.pairwise(spans))


def test_a_schedule_is_as_long_as_the_strength_wants() -> None:
    assert schedule(10, 0.5) == (20, 10)
    assert schedule(10, 1.0) == (10, 0)
    assert schedule(100, 0.01) == (1000, 900)
    assert schedule(5, 0.0) == (1000, 995)


# -- several pictures, and put aside --------------------------------------------------------------------------------


def parts_of(*seeds: int, **job: Any) -> list[Part]:
    return [Part(replace(PARAMS, seed=seed, **job), lambda *_: None) for seed in seeds]


def run(engine: Engine, parts: list[Part], wanted: Callable[[], bool] | None = None) -> Pass:
    crew = Pass(list(parts), wanted)
    engine.run(crew)
    return crew


@pytest.mark.parametrize(
    ("job", "boundaries"),
    [
        (TWICE, [2]),
        pytest.param(TWICE | {"hires_upscaler": "Lanczos"}, [2], marks=pytest.mark.slow),
        pytest.param(TILED, [2, 3], marks=pytest.mark.slow),
    ],
    ids=["latent", "pixels", "tiles"],
)
def test_a_pass_that_was_put_aside_in_the_second_pass_goes_on_bit_for_bit(
    diffusers_engine: DiffusersEngine, job: dict[str, Any], boundaries: list[int]
) -> None:
    job = job | {"sampler": "Euler a"}  # one that draws noise on its way
    undisturbed = parts_of(1, 2, **job)
    run(diffusers_engine, undisturbed)
    made = [part.result().image.tobytes() for part in undisturbed]
    for after in boundaries:
        parts, asked = parts_of(1, 2, **job), iter(range(1, 100))
        crew = run(diffusers_engine, parts, lambda asked=asked, after=after: next(asked) == after)
        assert crew.held is not None
        assert crew.held.steps > 2
        run(diffusers_engine, parts_of(9, steps=1))
        crew.held = diffusers_engine.restore_held(diffusers_engine.serialize_held(crew.held))
        diffusers_engine.run(crew)
        assert [part.result().image.tobytes() for part in parts] == made


def test_a_part_that_ends_in_the_second_pass_leaves_the_other_undisturbed(diffusers_engine: DiffusersEngine) -> None:
    undisturbed = parts_of(1, 2, **TWICE)
    run(diffusers_engine, undisturbed)

    def stop(step: int, preview: object) -> None:
        if step == 3:
            raise Stopped("cancel")

    [ended] = parts_of(1, **TWICE)
    ended.on_step = stop
    [other] = parts_of(2, **TWICE)
    run(diffusers_engine, [ended, other])
    assert isinstance(ended.problem, Stopped)
    assert other.result().image.tobytes() == undisturbed[1].result().image.tobytes()


def test_the_test_cards_have_the_size_and_the_steps_of_both_passes(draw: Draw) -> None:
    assert draw(**TWICE).image.size == (192, 192)
    assert draw.steps == [1, 2, 3, 4]
