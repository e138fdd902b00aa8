"""From a prompt and some settings to Params that are complete and within a model's limits."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diffusion_local import checks
from diffusion_local.checks import Defaults, Limits
from diffusion_local.errors import InvalidParams, NotFound
from diffusion_local.params import NAMES, RUNGS, Kind, Params

#: Fields of Params that a submit may set beside the prompt.
SETTINGS = tuple(name for name in NAMES if name != "prompt")
#: Width and height of a source picture by its id; raises InvalidParams or NotFound if there is none.
SizeOf = Callable[[str], tuple[int, int]]

STRENGTHS = {Kind.IMG2IMG: 0.6, Kind.INPAINT: 1.0}
#: The upscaler that needs no file: Pillow's filter.
LANCZOS = "Lanczos"
SCALE = 2.0
MAX_SCALE = 8.0
MAX_UPSCALED_SIDE = 16384
MAX_UPSCALED_PIXELS = 8192 * 8192
MAX_CLIP_SKIP = 12
#: Side of the squares of the source, in pixels, that an upscaler works through one by one.
TILE = 512

LORA_TAG = re.compile(r" ?<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")

#: What the kinds have of their own; a setting that means nothing to a kind is refused there.
OWN = {
    Kind.TXT2IMG: (),
    Kind.IMG2IMG: ("source", "strength"),
    Kind.INPAINT: ("source", "mask", "strength"),
    Kind.UPSCALE: ("source", "upscaler", "scale"),
}


def known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say something. Raises InvalidParams for one that is not a field of Params."""
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in SETTINGS:
            raise InvalidParams(name, f"is not a setting of a picture. Known: {', '.join(SETTINGS)}.")
    return given


def complete(
    model_id: str,
    defaults: Defaults,
    limits: Limits,
    prompt: str,
    given: Mapping[str, Any],
    size_of: SizeOf,
    family: str = "",
) -> Params:
    """The first field that is out of its limits raises InvalidParams."""
    kind = kind_of(given)
    for name in {name for own in OWN.values() for name in own} - set(OWN[kind]):
        if given.get(name):
            raise InvalidParams(name, f"must be left out where kind is {kind}.")
    checks.check_prompt("prompt", prompt, required=kind is not Kind.UPSCALE)
    negative = given.get("negative", "")
    checks.check_prompt("negative", negative)
    size = (defaults.width, defaults.height)
    own: dict[str, Any] = {}
    if kind is not Kind.TXT2IMG:
        own["source"] = checks.source_id("source", given.get("source"), kind)
        size = sized("source", own["source"], size_of)
    seed = checks.whole_number("seed", given["seed"], 0, checks.MAX_SEED)
    if kind is Kind.UPSCALE:
        return upscaled(model_id, prompt, negative, seed, size, given, own["source"])
    if kind in STRENGTHS:
        size = checks.fitted_size(*size, limits)
        own["strength"] = checks.number("strength", given.get("strength") or STRENGTHS[kind], 0.0, 1.0)
    if kind is Kind.INPAINT:
        own["mask"] = checks.source_id("mask", given.get("mask"), kind)
        sized("mask", own["mask"], size_of)
    width, height = checks.check_size(given.get("width", size[0]), given.get("height", size[1]), limits, model_id)
    sampler = checks.check_sampler(given.get("sampler", defaults.sampler), family)
    return Params(
        prompt=prompt.strip(),
        negative=negative.strip(),
        model=model_id,
        width=width,
        height=height,
        steps=checks.whole_number("steps", given.get("steps", defaults.steps), 1, limits.max_steps),
        guidance=checks.number("guidance", given.get("guidance", defaults.guidance), 0.0, limits.max_guidance),
        sampler=sampler,
        seed=seed,
        kind=kind,
        loras=checks.loras(given.get("loras", ())),
        vae=checks.file_name("vae", given["vae"]) if given.get("vae") else "",
        clip_skip=checks.whole_number("clip_skip", given.get("clip_skip") or 0, 0, MAX_CLIP_SKIP),
        schedule=checks.check_schedule(given.get("schedule"), sampler, family),
        rung=rung(given),
        **own,
        **variation(given),
    )


def series(params: Params, count: int) -> list[Params]:
    """``count`` pictures alike but for their seeds, which count up; of a variation only the variation seed does.

    Raises InvalidParams if the last one would be too large a seed.
    """
    varied = params.variation_seed is not None
    first = params.variation_seed if params.variation_seed is not None else params.seed
    if first + count - 1 > checks.MAX_SEED:
        field = "variation_seed" if varied else "seed"
        raise InvalidParams(field, f"must be at most {checks.MAX_SEED - count + 1} for {count} pictures.")
    if varied:
        return [replace(params, variation_seed=first + place) for place in range(count)]
    return [replace(params, seed=first + place) for place in range(count)]


def sized(field: str, source_id: str, size_of: SizeOf) -> tuple[int, int]:
    try:
        return size_of(source_id)
    except NotFound:
        raise InvalidParams(field, f"names no picture that is kept here ({source_id}). Add it first.") from None


def with_tags(params: Params) -> Params:
    """``<lora:name:weight>`` in the prompt, as A1111 has it, counts as a LoRA and is taken out of the text."""
    if "<lora:" not in params.prompt:
        return params
    named = [f"{name}:{weight or 1}" for name, weight in LORA_TAG.findall(params.prompt)]
    prompt = LORA_TAG.sub("", params.prompt).strip()
    checks.check_prompt("prompt", prompt, required=params.kind is not Kind.UPSCALE)
    return replace(params, prompt=prompt, loras=checks.loras([*params.loras, *named]))


def kind_of(given: Mapping[str, Any]) -> Kind:
    """The kind that is named, else the one that the pictures given speak of."""
    if not given.get("kind"):
        return Kind.INPAINT if given.get("mask") else Kind.IMG2IMG if given.get("source") else Kind.TXT2IMG
    return Kind(checks.one_of("kind", given["kind"], tuple(Kind)))


def variation(given: Mapping[str, Any]) -> dict[str, Any]:
    strength = checks.number("variation_strength", given.get("variation_strength") or 0.0, 0.0, 1.0)
    if not strength:
        return {}
    seed = given.get("variation_seed")
    drawn = checks.draw_seed() if seed is None or str(seed) == "-1" else seed
    return {
        "variation_strength": strength,
        "variation_seed": checks.whole_number("variation_seed", drawn, 0, checks.MAX_SEED),
    }


def rung(given: Mapping[str, Any]) -> str:
    return checks.one_of("rung", given["rung"], tuple(RUNGS)) if given.get("rung") else ""


def upscaled(
    model_id: str, prompt: str, negative: str, seed: int, size: tuple[int, int], given: Mapping[str, Any], source: str
) -> Params:
    """Width and height are the larger picture's; a step is a tile of the source."""
    scale = checks.number("scale", given.get("scale") or SCALE, 1.0, MAX_SCALE)
    width, height = (round(side * scale) for side in size)
    if max(width, height) > MAX_UPSCALED_SIDE or width * height > MAX_UPSCALED_PIXELS:
        raise InvalidParams(
            "scale",
            f"must not make more than {MAX_UPSCALED_PIXELS:,} pixels or a side over {MAX_UPSCALED_SIDE:,} "
            f"(got {width}x{height}).",
        )
    upscaler = checks.file_name("upscaler", given.get("upscaler") or LANCZOS)
    upscaler = LANCZOS if upscaler.casefold() == LANCZOS.casefold() else upscaler
    return Params(
        prompt=prompt.strip(),
        negative=negative.strip(),
        model=model_id,
        width=width,
        height=height,
        steps=1 if upscaler == LANCZOS else math.ceil(size[0] / TILE) * math.ceil(size[1] / TILE),
        guidance=0.0,
        sampler="",
        seed=seed,
        kind=Kind.UPSCALE,
        source=source,
        upscaler=upscaler,
        scale=scale,
        rung=rung(given),
    )
