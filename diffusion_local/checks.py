"""Checks of single fields. Each gives the value in its own type, or raises InvalidParams naming field and limit."""

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from diffusion_local.errors import InvalidParams
from diffusion_local.params import Lora

MAX_SEED = 2**32 - 1
#: What only ever stands within an emoji: zero-width joiner, variation selector.
JOINERS = "\u200d\ufe0f"
FIRST_EMOJI = "\u2300"  # signs such as the degree's come before
MAX_PROMPT_CHARS = 10_000
MAX_LORAS = 8
MAX_LORA_WEIGHT = 4.0
MAX_NAME_CHARS = 200
SOURCE_ID = re.compile(r"[0-9a-f]{64}")

#: Names people know from other tools; ``engine.samplers`` maps each onto a diffusers scheduler.
SAMPLERS = (
    "DPM++ 2M",
    "DPM++ 2M Karras",
    "DPM++ 2M SDE",
    "Euler",
    "Euler a",
    "UniPC",
    "Heun",
    "DDIM",
    "DDPM",
    "LCM",
    "SCM",
)
#: Spacings of the noise levels, as A1111 names them.
SCHEDULES = ("Automatic", "Uniform", "SGM Uniform", "Karras", "Exponential")
#: Samplers that take sigmas in any spacing; the others step through the training's own timesteps.
SPACED = ("DPM++ 2M", "DPM++ 2M SDE", "Euler", "UniPC", "Heun")
SIGMA_SCHEDULES = ("Karras", "Exponential")
#: Families trained by flow matching, and the samplers for them.
FLOW_FAMILIES = frozenset({"sd3", "flux", "flux2", "z_image", "sana"})
FLOW_SAMPLERS = ("Euler", "DPM++ 2M", "UniPC")
#: Families distilled into a few steps of one sampler.
SCM_FAMILIES = frozenset({"sana_sprint"})
SCM_SAMPLERS = ("SCM",)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model is run with where the person says nothing."""

    width: int = 512
    height: int = 512
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DPM++ 2M"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a model, in pixels, steps and classifier-free guidance scale."""

    min_size: int = 64
    max_size: int = 2048
    max_pixels: int = 2048 * 2048
    multiple: int = 8
    max_steps: int = 150
    max_guidance: float = 30.0


def draw_seed() -> int:
    return random.SystemRandom().randint(0, 2**31 - 1)


def check_prompt(field: str, text: Any, required: bool = False) -> None:
    if not isinstance(text, str):
        raise InvalidParams(field, "must be text.")
    if len(text) > MAX_PROMPT_CHARS:
        raise InvalidParams(field, f"must have at most {MAX_PROMPT_CHARS:,} characters (got {len(text):,}).")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidParams(field, "must be text; it holds half a character that cannot be stored.")
    if required and not text.strip():
        raise InvalidParams(field, "must not be empty. Say what the picture should show.")


def number(field: str, value: Any, low: float, high: float) -> float:
    bounds = f"from {shown(low)} to {shown(high)}"
    try:
        given = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidParams(field, f"must be a number {bounds} (got {value!r}).") from None
    if isinstance(value, bool) or not low <= given <= high:
        raise InvalidParams(field, f"must be {bounds} (got {value!r}).")
    return given


def shown(bound: float) -> str:
    """A bound in full: 4294967295, not 4.29e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def whole_number(field: str, value: Any, low: int, high: int) -> int:
    given = number(field, value, low, high)
    if given != int(given):
        raise InvalidParams(field, f"must be a whole number from {low} to {high} (got {value!r}).")
    return int(given)


def check_size(width: Any, height: Any, limits: Limits, model_id: str) -> tuple[int, int]:
    size = []
    for field, value in (("width", width), ("height", height)):
        pixels = whole_number(field, value, limits.min_size, limits.max_size)
        if pixels % limits.multiple:
            low = pixels - pixels % limits.multiple
            raise InvalidParams(
                field, f"must be a multiple of {limits.multiple} (got {pixels}; try {low} or {low + limits.multiple})."
            )
        size.append(pixels)
    if size[0] * size[1] > limits.max_pixels:
        raise InvalidParams(
            "width",
            f"times height must be at most {limits.max_pixels:,} pixels for {model_id} (got {size[0]}x{size[1]}).",
        )
    return size[0], size[1]


def fitted_size(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """The size nearest to a source's that the model can make: its shape is kept, as far as the limits allow."""
    scale = min(1.0, limits.max_size / max(width, height), (limits.max_pixels / (width * height)) ** 0.5)
    scale = max(scale, limits.min_size / min(width, height))
    low, high = (edge // limits.multiple * limits.multiple for edge in (limits.min_size, limits.max_size))
    fitted = [round(side * scale / limits.multiple) * limits.multiple for side in (width, height)]
    fitted = [max(low, min(high, side)) for side in fitted]
    while fitted[0] * fitted[1] > limits.max_pixels:  # by rounding up, or as a very long picture was widened
        fitted[fitted[1] > fitted[0]] -= limits.multiple
    return fitted[0], fitted[1]


def one_of(field: str, name: Any, known: tuple[str, ...]) -> str:
    """The known name that this is, whatever its case."""
    for each in known:
        if isinstance(name, str) and name.strip().casefold() == each.casefold():
            return each
    raise InvalidParams(field, f"must be one of {', '.join(known)} (got {name!r}).")


def samplers_of(family: str) -> tuple[str, ...]:
    if family in SCM_FAMILIES:
        return SCM_SAMPLERS
    return FLOW_SAMPLERS if family in FLOW_FAMILIES else tuple(each for each in SAMPLERS if each not in SCM_SAMPLERS)


def check_sampler(name: Any, family: str = "") -> str:
    return one_of("sampler", name, samplers_of(family))


def schedules_of(sampler: str, family: str = "") -> tuple[str, ...]:
    if family in SCM_FAMILIES:
        return SCHEDULES[:1]
    flows = family in FLOW_FAMILIES
    sigmas = sampler == "Euler" if flows else sampler in SPACED  # DPM++ 2M runs out of range with flows and Karras
    return tuple(
        name
        for name in SCHEDULES
        if (name not in SIGMA_SCHEDULES or sigmas) and not (flows and name in ("Uniform", "SGM Uniform"))
    )


def check_schedule(name: Any, sampler: str, family: str = "") -> str:
    """A schedule that the sampler can take; empty is its own."""
    if not name:
        return ""
    found = one_of("schedule", name, SCHEDULES)
    known = schedules_of(sampler, family)
    if found not in known:
        raise InvalidParams("schedule", f"must be one of {', '.join(known)} with {sampler} (got {found}).")
    return found


def source_id(field: str, value: Any, needed: str) -> str:
    """The id of a source picture. ``needed`` says what for, where there is none."""
    if not value:
        raise InvalidParams(field, f"is needed for {needed}: give the id of a source picture.")
    if not isinstance(value, str) or not SOURCE_ID.fullmatch(value):
        raise InvalidParams(field, f"must be the id of a source picture, 64 hexadecimal digits (got {value!r:.80}).")
    return value


def file_name(field: str, value: Any) -> str:
    """A name of a file below one of the home's folders; ``/`` is allowed, leading out of the folder is not."""
    name = value.strip() if isinstance(value, str) else ""
    parts = name.split("/")
    odd = "\\" in name or any(sign < " " or "\ud800" <= sign <= "\udfff" for sign in name)
    if not name or len(name) > MAX_NAME_CHARS or odd or any(part in ("", ".", "..") for part in parts):
        raise InvalidParams(field, f"must be the name of a file of its folder (got {value!r:.80}).")
    return name


def loras(value: Any) -> tuple[Lora, ...]:
    """Several of ``{"name": ..., "weight": ...}``, ``"name:weight"``, ``"name"``, or all in one text with commas."""
    each = value.split(",") if isinstance(value, str) else value
    if not isinstance(each, list | tuple):
        raise InvalidParams("loras", f'must be a list, such as [{{"name": "ink", "weight": 0.8}}] (got {value!r:.80}).')
    each = [one for one in each if one != ""]
    if len(each) > MAX_LORAS:
        raise InvalidParams("loras", f"must be at most {MAX_LORAS} (got {len(each)}).")
    found = tuple(lora(one) for one in each)
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidParams("loras", f"must name each LoRA once ({name!r} is there {names.count(name)} times).")
    return found


def lora(value: Any) -> Lora:
    weight: Any
    if isinstance(value, Lora):
        name, weight = value.name, value.weight
    elif isinstance(value, str):
        name, colon, weight_text = value.rpartition(":")
        name, weight = (name, weight_text) if colon else (weight_text, 1.0)
    elif isinstance(value, dict) and "name" in value and not set(value) - {"name", "weight"}:
        name, weight = value["name"], value.get("weight", 1.0)
    else:
        raise InvalidParams("loras", f"must each have a name and a weight (got {value!r:.80}).")
    return Lora(file_name("loras", name), number("loras", weight, -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT))


def foreign_words(text: str, scripts: Sequence[str]) -> list[str]:
    """Runs of letters of other scripts than these, and of emoji; each once. Punctuation and digits are everybody's."""
    runs = ("".join(run) for foreign, run in groupby(text, lambda mark: is_foreign(mark, scripts)) if foreign)
    return list(dict.fromkeys(run for run in runs if run.strip(JOINERS)))


def is_foreign(mark: str, scripts: Sequence[str]) -> bool:
    if mark in JOINERS:
        return True
    kind = unicodedata.category(mark)
    if kind in ("So", "Sk"):
        return mark >= FIRST_EMOJI
    return kind.startswith("L") and not any(script in unicodedata.name(mark, "") for script in scripts)
