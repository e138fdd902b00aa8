"""What every family owes a pass of several pictures."""

from dataclasses import replace
from typing import Any

from diffusion_local.engine import Engine, Part, Pass
from tests.support import PARAMS


def parts_of(*prompts: str, **job: Any) -> list[Part]:
    return [
        Part(replace(PARAMS, **{**job, "prompt": prompt, "seed": seed}), lambda *_: None)
        for seed, prompt in enumerate(prompts, start=1)
    ]


def bytes_of(parts: list[Part]) -> list[bytes]:
    return [part.result().image.tobytes() for part in parts]


def differ(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def check_alone(engine: Engine, **job: Any) -> None:
    """Of families whose pictures cannot share a pass, or whose passes cannot be put aside."""
    first, other = parts_of("a cat", "a red car", **job)
    crew = Pass([first, other], lambda: True)
    engine.run(crew)
    assert (crew.left, crew.held) == ([other], None)
    assert first.made is not None


def check_passes(engine: Engine, **job: Any) -> None:
    """Each picture of a pass is its own; company does not matter; one that was held continues bit for bit."""
    prompts = ("a cat", "a red car")
    alone = []
    for part in parts_of(*prompts, **job):
        engine.run(Pass([part]))
        alone += bytes_of([part])
    together = parts_of(*prompts, **job)
    crew = Pass(list(together))
    engine.run(crew)
    assert crew.left == []
    made = bytes_of(together)
    assert max(map(differ, alone, made)) <= 3
    assert differ(*made) > 3
    others = parts_of("a cat", "a dog on a hill", **job)
    engine.run(Pass(list(others)))
    assert bytes_of(others)[0] == made[0]
    for after in range(1, int(job["steps"])):
        held, asked = parts_of(*prompts, **job), iter(range(1, 100))
        crew = Pass(list(held), lambda asked=asked, after=after: next(asked) == after)
        engine.run(crew)
        engine.run(Pass(parts_of("somebody waits", **job | {"steps": 1})))
        engine.run(crew)
        assert bytes_of(held) == made
