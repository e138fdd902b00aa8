"""Several pictures in one loop, and a loop that is put aside: one suite over both engines."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diffusion_local.domain import Params
from diffusion_local.engine import Engine, Part, Pass
from diffusion_local.engine.fake import FakeEngine
from diffusion_local.errors import OutOfMemory, Stopped
from diffusion_local.models.catalog import Model
from diffusion_local.options.samplers import SAMPLERS
from tests.support import PARAMS, tiers

STEPS = 4


@pytest.fixture(scope="module")
def starter(narrow: Model) -> Model:
    return narrow


def quiet(step: int, preview: object) -> None:
    pass


def part(seed: int, prompt: str = "a red apple", on_step: Any = quiet, **changes: Any) -> Part:
    return Part(replace(PARAMS, **{"seed": seed, "prompt": prompt, "steps": STEPS, **changes}), on_step)


def run(engine: Engine, *parts: Part) -> list[bytes]:
    crew = Pass(list(parts))
    engine.run(crew)
    assert crew.left == []
    return [each.result().image.tobytes() for each in parts]


def largest_difference(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_each_picture_of_a_pass_is_its_own_but_for_rounding(engine: Engine) -> None:
    alone = [run(engine, part(seed, prompt))[0] for seed, prompt in ((1, "a red apple"), (2, "a blue car"))]
    beside = run(engine, part(1, "a red apple"), part(2, "a blue car"))
    assert max(map(largest_difference, alone, beside)) <= 2
    assert largest_difference(*beside) > 50


def test_a_picture_depends_on_its_place_and_not_on_its_company(engine: Engine) -> None:
    one = run(engine, part(1), part(2, "a blue car"), part(3), part(4))
    other = run(engine, part(8, "a cat"), part(2, "a blue car"), part(9, "a dog"), part(6))
    assert one[1] == other[1]


def test_the_recipe_names_the_place_that_gives_the_same_bytes_again(engine: Engine) -> None:
    parts = [part(seed, sampler="Euler a") for seed in range(4)]  # one that draws noise on its way
    made = run(engine, *parts)
    places = [each.result().facts["place"] for each in parts]
    assert places == ["1/4", "2/4", "3/4", "4/4"]
    again = part(2, sampler="Euler a", place=places[2])
    assert run(engine, again) == [made[2]]
    assert again.result().facts["place"] == "3/4"


def test_a_single_picture_has_no_place(engine: Engine) -> None:
    alone = part(1)
    run(engine, alone)
    assert "place" not in alone.result().facts


@pytest.mark.parametrize("error", [Stopped("cancel"), KeyError("not an error of the engine")])
def test_a_part_that_ends_leaves_the_others_undisturbed(engine: Engine, error: Exception) -> None:
    undisturbed = run(engine, part(1), part(2))

    def stop(step: int, preview: object) -> None:
        if step == 2:
            raise error

    ended, other = part(1, on_step=stop), part(2)
    engine.run(Pass([ended, other]))
    assert ended.problem is error
    assert ended.made is None
    assert other.result().image.tobytes() == undisturbed[1]


def test_a_pass_without_a_part_left_ends_at_once(engine: Engine) -> None:
    seen: list[int] = []

    def stop(step: int, preview: object) -> None:
        seen.append(step)
        raise Stopped("cancel")

    parts = [part(1, on_step=stop), part(2, on_step=stop)]
    engine.run(Pass(parts))
    assert seen == [1, 1]
    assert all(isinstance(each.problem, Stopped) for each in parts)


def test_every_part_has_steps_and_previews_of_its_own(engine: Engine) -> None:
    reports: dict[int, list[int]] = {1: [], 2: []}
    previews: dict[int, Any] = {}

    def follow(seed: int) -> Callable[[int, Any], None]:
        def on_step(step: int, preview: Any) -> None:
            reports[seed].append(step)
            previews[seed] = preview

        return on_step

    run(engine, part(1, "a red apple", follow(1)), part(2, "a blue car", follow(2)))
    assert reports == {1: [1, 2, 3, 4], 2: [1, 2, 3, 4]}
    one, two = (previews[seed]()().tobytes() for seed in (1, 2))
    assert largest_difference(one, two) > 50


def test_sizes_are_powers_of_two_and_the_rest_is_left_over(engine: Engine) -> None:
    parts = [part(seed, steps=1) for seed in range(3)]
    crew = Pass(list(parts))
    engine.run(crew)
    assert (crew.size, crew.parts, crew.left) == (2, parts[:2], parts[2:])
    assert parts[2].live


# -- put aside -------------------------------------------------------------------------------------------------------


def put_aside(engine: Engine, crew: Pass, after: int, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Run a pass that is held after some steps and goes on afterwards."""
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked == after

    crew.wanted = wanted
    engine.run(crew)
    assert crew.held is not None
    assert crew.held.steps == after
    assert all(each.live for each in crew.parts)
    meanwhile()
    engine.run(crew)
    assert crew.held is None
    assert crew.left == []


@pytest.mark.parametrize("after", tiers([1, 2, 3], first=[1, 3]))
def test_a_pass_that_was_put_aside_goes_on_bit_for_bit(engine: Engine, after: int) -> None:
    undisturbed = run(engine, part(1), part(2, "a blue car"))
    reports: list[int] = []
    parts = [part(1, on_step=lambda step, preview: reports.append(step)), part(2, "a blue car")]
    put_aside(engine, Pass(parts), after, lambda: run(engine, part(7, "a cat", guidance=1.0, sampler="Heun", steps=2)))
    assert [each.result().image.tobytes() for each in parts] == undisturbed
    assert reports == [1, 2, 3, 4]


@pytest.mark.parametrize("sampler", tiers(SAMPLERS, first=["Euler a", "Heun", "DPM++ 2M SDE", "UniPC", "LCM"]))
def test_every_sampler_goes_on_bit_for_bit(engine: Engine, sampler: str) -> None:
    if isinstance(engine, FakeEngine) and sampler != "Euler":
        pytest.skip("the fake engine has no samplers")
    if sampler == "SCM":
        pytest.skip("not for the starter")
    [undisturbed] = run(engine, part(3, sampler=sampler))
    held = part(3, sampler=sampler)
    put_aside(engine, Pass([held]), 2, lambda: run(engine, part(4, steps=1)))
    assert held.result().image.tobytes() == undisturbed


def test_a_prompt_that_changes_on_the_way_goes_on_bit_for_bit(engine: Engine) -> None:
    prompt = "a [red:blue:0.5] [cat|dog]"
    undisturbed = run(engine, part(1, prompt), part(2, "a [green:red:0.25] car"))
    parts = [part(1, prompt), part(2, "a [green:red:0.25] car")]
    crew = Pass(list(parts))
    put_aside(engine, crew, 2)
    assert [each.result().image.tobytes() for each in parts] == undisturbed


def test_a_part_may_end_while_its_pass_is_aside(engine: Engine) -> None:
    undisturbed = run(engine, part(1), part(2))
    parts = [part(1), part(2)]
    stopped = Stopped("cancel")
    put_aside(engine, Pass(parts), 2, lambda: setattr(parts[0], "problem", stopped))
    assert parts[0].problem is stopped
    assert parts[1].result().image.tobytes() == undisturbed[1]


def test_another_model_may_be_used_meanwhile(engine: Engine, starter_copy: Any, starter: Any) -> None:
    [undisturbed] = run(engine, part(5))
    held = part(5)

    def meanwhile() -> None:
        engine.unload()
        engine.load(starter_copy())
        run(engine, part(1, model="copy", steps=1))
        engine.unload()
        engine.load(starter)

    put_aside(engine, Pass([held]), 2, meanwhile)
    assert held.result().image.tobytes() == undisturbed


@pytest.mark.slow
def test_a_pass_starts_anew_if_the_precision_was_changed_meanwhile(engine: Engine, starter: Any) -> None:
    """Its first steps were computed with other weights."""
    if isinstance(engine, FakeEngine):
        pytest.skip("it has no weights")
    changed = replace(starter, chosen_precision="nf4")
    engine.load(changed)
    [anew] = run(engine, part(5))
    engine.load(starter)
    held = part(5)
    put_aside(engine, Pass([held]), 2, lambda: engine.load(changed))
    engine.load(starter)
    assert held.result().image.tobytes() == anew


def test_a_held_pass_continues_from_bytes_in_an_engine_started_anew(engine: Engine, starter: Any) -> None:
    undisturbed = run(engine, part(1, sampler="DPM++ 2M SDE"), part(2, "a blue car", sampler="DPM++ 2M SDE"))
    asked = iter(range(1, 9))
    crew = Pass([part(1, sampler="DPM++ 2M SDE"), part(2, "a blue car", sampler="DPM++ 2M SDE")])
    crew.wanted = lambda: next(asked) == 2
    engine.run(crew)
    assert crew.held is not None
    data = engine.serialize_held(crew.held)
    engine.unload()
    engine.load(starter)
    parts = [part(1, sampler="DPM++ 2M SDE"), part(2, "a blue car", sampler="DPM++ 2M SDE")]
    parts[1].place = 1
    again = Pass(list(parts), size=2, held=engine.restore_held(data))
    assert again.held is not None
    assert again.held.steps == 2
    engine.run(again)
    assert [each.result().image.tobytes() for each in parts] == undisturbed


@pytest.mark.parametrize("data", [b"", b"nothing of ours", b"\x80\x04K\x01."])
def test_damaged_bytes_hold_no_pass(engine: Engine, data: bytes) -> None:
    assert engine.restore_held(data) is None


# -- of one engine only ----------------------------------------------------------------------------------------------


def test_a_part_that_fails_is_the_only_one(diffusers_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_local.engine import conditioning

    embed = conditioning.embed

    def failing(loaded: Any, params: Params, *texts: str) -> Any:
        if "broken" in params.prompt:
            raise ValueError("no such word")
        return embed(loaded, params, *texts)

    undisturbed = run(diffusers_engine, part(1), part(2))
    monkeypatch.setattr(conditioning, "embed", failing)
    broken, good = part(1, "broken"), part(2)
    diffusers_engine.run(Pass([broken, good]))
    assert "no such word" in str(broken.problem)
    assert largest_difference(good.result().image.tobytes(), undisturbed[1]) <= 2


def test_a_longer_prompt_is_left_over_whole(diffusers_engine: Engine) -> None:
    long = part(2, " and ".join(["a red apple"] * 30))
    parts = [part(1), long, part(3)]
    crew = Pass(list(parts))
    diffusers_engine.run(crew)
    assert crew.left == [long]
    assert long.live
    run(diffusers_engine, long)


def test_the_second_order_sampler_works_together(diffusers_engine: Engine) -> None:
    undisturbed = run(diffusers_engine, part(1, sampler="Heun"), part(2, sampler="Heun"))
    parts = [part(1, sampler="Heun"), part(2, sampler="Heun")]
    put_aside(diffusers_engine, Pass(parts), 3)
    assert [each.result().image.tobytes() for each in parts] == undisturbed


def test_the_fake_engine_fails_a_part_and_runs_out_of_memory_as_a_whole() -> None:
    engine = FakeEngine(0)
    from diffusion_local.models.catalog import Catalog
    from diffusion_local.paths import assets

    engine.load(Catalog(assets() / "starter", assets() / "none").default)
    broken, good = part(1, "[fail]"), part(2)
    engine.run(Pass([broken, good]))
    assert broken.problem is not None
    assert good.made is not None
    with pytest.raises(OutOfMemory):
        engine.run(Pass([part(1, "[oom]"), part(2)]))


def test_another_version_does_not_continue_a_pass(diffusers_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_local.engine import diffusers_engine as module

    crew = Pass([part(1)], lambda: True)
    diffusers_engine.run(crew)
    assert crew.held is not None
    data = diffusers_engine.serialize_held(crew.held)
    assert diffusers_engine.restore_held(data) is not None
    monkeypatch.setattr(module, "__version__", "another")
    assert diffusers_engine.restore_held(data) is None
