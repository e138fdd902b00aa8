"""What every family owes a pass of several pictures, and a picture with a second pass or a mask."""

from dataclasses import replace
from typing import Any

from PIL import Image as PIL

from diffusion_local.domain import Kind
from diffusion_local.engine import Engine, Part, Pass
from tests.engine.home import Home
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


def check_shaping(engine: Engine, home: Home, **job: Any) -> None:
    """A second pass of latents, of pixels, and in tiles; a soft mask, a region of a picture, and more around it."""

    def draw(**changes: Any) -> PIL.Image:
        reports: list[int] = []
        params = replace(PARAMS, **job | changes)
        part = Part(params, lambda step, preview: reports.append(step))
        engine.run(Pass([part]))
        assert reports[-1] == params.total_steps
        return part.result().image

    plain = draw(width=64, height=96)
    twice = {"width": 64, "height": 96, "hires_scale": 2.0, "hires_steps": 1, "hires_strength": 0.5}
    whole = draw(**twice)
    assert (plain.size, whole.size) == ((64, 96), (128, 192))
    assert draw(**twice, hires_upscaler="Lanczos").tobytes() != whole.tobytes()
    assert draw(**twice, hires_upscaler="Lanczos", hires_tile=96).size == (128, 192)
    source = {"kind": Kind.INPAINT, "source": home.source, "mask": home.mask, "strength": 0.8}
    source |= {"width": 128, "height": 128}
    soft, region = draw(**source, mask_edges="soft"), draw(**source, inpaint_area="Only masked", mask_blur=2)
    assert soft.size == region.size == (128, 128)
    assert soft.crop((64, 0, 128, 128)).tobytes() == home.circle.crop((64, 0, 128, 128)).tobytes()
    wider = draw(**source | {"mask": ""}, outpaint="right:128", inpaint_area="Only masked", mask_content="latent noise")
    assert wider.size == (256, 128)
    assert wider.crop((0, 0, 128, 128)).tobytes() == home.circle.tobytes()
