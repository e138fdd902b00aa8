"""What every engine owes the worker: one suite, run over each of them."""

from pathlib import Path

import pytest

from diffusion_local.engine import Engine
from diffusion_local.errors import ModelUnavailable, Stopped
from diffusion_local.models.catalog import Model, read_folder
from tests.engine.conftest import Draw


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def test_equal_params_give_equal_pixels(draw: Draw) -> None:
    assert draw(seed=1, steps=2).image.tobytes() == draw(seed=1, steps=2).image.tobytes()


@pytest.mark.parametrize("change", [{"seed": 2}, {"prompt": "a blue car"}, {"negative": "red"}])
def test_another_recipe_gives_other_pixels(draw: Draw, change: dict[str, object]) -> None:
    assert draw(steps=2).image.tobytes() != draw(**{"steps": 2, **change}).image.tobytes()


def test_a_largest_seed_is_fine(draw: Draw) -> None:
    assert draw(seed=2**32 - 1, steps=1).image.size == (128, 128)


@pytest.mark.parametrize("size", [(128, 128), (136, 200), (256, 128)])
def test_size_is_exact(draw: Draw, size: tuple[int, int]) -> None:
    image = draw(width=size[0], height=size[1], steps=1).image
    assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_are_counted_from_one(draw: Draw, steps: int) -> None:
    draw(steps=steps)
    assert draw.steps == list(range(1, steps + 1))


def test_previews_are_small_pictures_of_the_same_shape(draw: Draw) -> None:
    draw(width=256, height=128, steps=2)
    image = draw.previews[-1]()()
    assert (image.size, image.mode) == ((256, 128), "RGB")


def test_a_long_side_is_previewed_at_256(draw: Draw) -> None:
    draw(width=128, height=512, steps=1)
    assert draw.previews[0]()().size == (64, 256)


@pytest.mark.parametrize("error", [Stopped("cancel"), KeyError("not an error of the engine"), KeyboardInterrupt()])
def test_what_on_step_raises_passes_through_and_leaves_the_engine_usable(
    engine: Engine, draw: Draw, error: BaseException
) -> None:
    undisturbed = draw(steps=3).image.tobytes()

    def stop(step: int, preview: object) -> None:
        if step == 2:
            raise error

    draw.on_step, keep = stop, draw.on_step  # type: ignore[method-assign]
    with pytest.raises(type(error)) as raised:
        draw(steps=3)
    draw.on_step = keep  # type: ignore[method-assign]
    assert raised.value is error
    assert draw(steps=3).image.tobytes() == undisturbed


def test_it_says_what_it_is_and_what_is_loaded(engine: Engine, draw: Draw) -> None:
    assert engine.device
    assert engine.loaded == "starter"
    assert draw(steps=1).facts["denoise_seconds"] >= 0


def test_an_unknown_model_is_unavailable(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"'nowhere' .*The folder nowhere does not exist"):
        engine.load(read_folder(tmp_path / "nowhere", "nowhere", "Nowhere"))


def test_a_model_that_is_not_loaded_does_not_draw(engine: Engine, draw: Draw, starter: Model) -> None:
    with pytest.raises(ModelUnavailable, match="'other' is not loaded"):
        draw(model="other")
    engine.unload()
    assert engine.loaded == ""
    with pytest.raises(ModelUnavailable, match="'starter' is not loaded"):
        draw()
    engine.load(starter)
    assert engine.loaded == "starter"
    draw(steps=1)
