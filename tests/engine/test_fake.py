import time

import pytest

from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import EngineError, OutOfMemory
from diffusion_local.models.catalog import Model
from tests.engine.conftest import Draw
from tests.support import start_python


@pytest.fixture
def draw(starter: Model) -> Draw:
    engine = FakeEngine(step_seconds=0)
    engine.load(starter)
    return Draw(engine)


@pytest.mark.parametrize(("word", "error"), [("[fail]", EngineError), ("[oom]", OutOfMemory), ("[flaky]", EngineError)])
@pytest.mark.parametrize(("steps", "told"), [(1, []), (4, [1])])
def test_words_in_the_prompt_make_it_fail(
    draw: Draw, word: str, error: type[EngineError], steps: int, told: list[int]
) -> None:
    with pytest.raises(error) as raised:
        draw(prompt=f"a cat {word}", steps=steps)
    assert raised.value.transient == (word == "[flaky]")
    assert draw.steps == told


def test_flaky_works_at_the_second_try_of_a_seed(draw: Draw) -> None:
    for seed in (1, 2):
        with pytest.raises(EngineError):
            draw(prompt="[flaky]", seed=seed)
        draw(prompt="[flaky]", seed=seed)


def test_slow_sets_the_time_of_a_step(draw: Draw) -> None:
    started = time.monotonic()
    draw(prompt="[slow:0.05]", steps=2)
    assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("prompt", ["", "x" * 10_000, "猫 🐈 " * 50, "line\nline"])
@pytest.mark.parametrize("size", [(64, 64), (64, 2048)])
def test_any_prompt_fits_on_any_card(draw: Draw, prompt: str, size: tuple[int, int]) -> None:
    assert draw(prompt=prompt, width=size[0], height=size[1], steps=1).image.size == size


def test_crash_ends_the_process_and_nothing_imports_torch() -> None:
    code = """
import sys
from diffusion_local.models.catalog import read_folder
from diffusion_local.worker.__main__ import open_engine
from diffusion_local.paths import assets
from diffusion_local.settings import Settings
from tests.support import params

engine = open_engine(Settings.load(engine="fake", fake_step_seconds="0"), "gpu7", None)
engine.load(read_folder(assets() / "starter", "starter", "Starter"))
engine.generate(params(), lambda step, preview: None)
print(*{"torch", "diffusers"} & set(sys.modules), flush=True)
engine.generate(params(prompt="[crash]"), lambda step, preview: print(step, flush=True))
"""
    child = start_python(code)
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output.split()) == (13, ["1"]), errors
