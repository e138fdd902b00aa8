"""Writes and reads A1111's recipe text: prompt, ``Negative prompt: ...``, and a line of ``Name: value`` pairs.

The option table declares the names. The format is that of the PNG text chunk ``parameters`` of AUTOMATIC1111's web UI.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from diffusion_local import __version__
from diffusion_local.grammar.tags import Tag
from diffusion_local.options import detailer_text, samplers
from diffusion_local.options.option import Option
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.options.types import Control, Kind, format_number
from diffusion_local.options.values import MAX_NAME_CHARS

NEGATIVE = "Negative prompt:"
STRENGTH_NAME = "Denoising strength"  # of img2img, or of the second pass after txt2img
RESIZE = "Hires resize"  # size of a second pass, given instead of a factor
SIZE_TEXT = re.compile(r"(\d{1,5})x(\d{1,5})")
MODEL_HASH = "Model hash"  # first ten digits of the file's SHA-256
#: Names in recipes that are not options.
FACT_NAMES = (
    MODEL_HASH,
    "VAE hash",
    "Lora hashes",
    "TI hashes",
    "Version",
    "version",
    "Pipeline",
    "Parser",
    "Operations",
)
#: A1111's order of its names; other names follow in table order.
PAIR_ORDER = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", MODEL_HASH, "Model", "VAE hash", "VAE",
    STRENGTH_NAME, "Clip skip", "Variation seed", "Variation seed strength", "Hires upscale", "Hires steps",
    "Hires upscaler", "Postprocess upscale by", "Postprocess upscaler",
)  # fmt: skip
#: A1111's names of options with fixed choices -> our name; unknown values are reported as not read.
CHOICES = {name: option.name for option in OPTIONS.values() if option.choices for name in option.a1111}


# -- written --------------------------------------------------------------------------------------------------------


def format_recipe(params: Params, facts: Mapping[str, Any] | None = None) -> str:
    """Write the recipe as A1111 does. ``facts``: hashes of the files used."""
    facts = facts or {}
    pairs = {
        "Size": f"{params.width}x{params.height}",
        MODEL_HASH: facts.get("model_hash"),
        "VAE hash": facts.get("vae_hash"),
        **option_pairs(params),
    }
    order = {name: place for place, name in enumerate(PAIR_ORDER)}
    pairs = dict(sorted(pairs.items(), key=lambda pair: order.get(pair[0], len(order))))
    pairs |= detailer_text.to_pairs(params.details)
    pairs |= {f"ControlNet {place}": control_text(control) for place, control in enumerate(params.controls)}
    pairs |= {
        "Lora hashes": format_hashes(facts.get("lora_hashes", {})),
        "TI hashes": format_hashes(facts.get("embedding_hashes", {})),
        "Version": f"diffusion-local {__version__}",
    }
    loras = (Tag("lora", lora.name, format_number(lora.weight)).to_text() for lora in params.loras)
    lines = [" ".join([params.prompt, *loras])]
    if params.negative:
        lines.append(f"{NEGATIVE} {params.negative}")
    lines.append(", ".join(f"{name}: {quote(str(value))}" for name, value in pairs.items() if value not in (None, "")))
    return "\n".join(lines)


def control_text(control: Control) -> str:
    """Write a control as A1111's ControlNet extension does, without its picture."""
    pairs = {
        "Module": control.type, "Model": control.model, "Weight": format_number(control.weight),
        "Resize Mode": "Crop and Resize", "Guidance Start": format_number(control.start),
        "Guidance End": format_number(control.end), "Control Mode": "Balanced",
    }  # fmt: skip
    return ", ".join(f"{name}: {value}" for name, value in pairs.items())


def option_pairs(params: Params) -> dict[str, str]:
    """Name and value of the options that have an A1111 name, apply and are set."""
    written = {}
    for name, option in OPTIONS.items():
        value = getattr(params, name)
        needed = option.needs and getattr(params, option.needs)
        if option.a1111 and params.kind in option.kinds and (needed or option.is_set(value, params.kind)):
            written[option.a1111[0]] = format_number(value) if option.type is float else str(value)
    if params.hires_scale and params.kind is Kind.TXT2IMG:
        written[STRENGTH_NAME] = format_number(params.hires_strength)
    return written


def format_hashes(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {digest}" for name, digest in hashes.items())


def quote(text: str) -> str:
    """Quote a value with a comma, colon or line break as a JSON string, as A1111 does."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def unquote(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')


# -- read -----------------------------------------------------------------------------------------------------------


def parse_settings(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Options from the pairs of a recipe, by our names; unusable values are left out."""
    settings: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        for foreign_name in option.a1111:
            value = parse_value(option, pairs.get(foreign_name, ""))
            if value is not None:
                settings[name] = value
    if size := SIZE_TEXT.fullmatch(pairs.get("Size", "")):
        sides = [parse_value(OPTIONS[name], size[place]) for place, name in enumerate(("width", "height"), 1)]
        settings |= {"width": sides[0], "height": sides[1]} if all(sides) else {}
    sampler, schedule = samplers.split_schedule(pairs.get("Sampler", ""))
    if sampler:
        settings["sampler"] = sampler
    if schedule and "schedule" not in settings:
        settings["schedule"] = schedule
    if "upscaler" in settings:
        settings["kind"] = str(Kind.UPSCALE)
    read_second_pass(pairs, settings)
    details, _ = detailer_text.from_pairs(pairs)
    return settings | ({"details": details} if details else {})


def read_second_pass(pairs: Mapping[str, str], settings: dict[str, Any]) -> None:
    """Add the settings of a second pass that A1111 writes differently: its size instead of a factor, and its strength
    under the name of img2img's.
    """
    size, large = SIZE_TEXT.fullmatch(pairs.get("Size", "")), SIZE_TEXT.fullmatch(pairs.get(RESIZE, ""))
    if size and large and "hires_scale" not in settings:
        scale = max(int(large[place]) / max(1, int(size[place])) for place in (1, 2))
        if 1 <= scale <= OPTIONS["hires_scale"].bounds[1]:
            settings["hires_scale"] = round(scale, 4)
    if "hires_scale" in settings:
        second = settings.setdefault("hires_strength", settings.get("strength", OPTIONS["hires_strength"].default))
        if settings.get("strength") == second:
            del settings["strength"]


def parse_value(option: Option, text: str) -> Any:
    """Parse an option's value from text; None if it is unusable."""
    if not text:
        return None
    if option.is_number:
        number = parse_number(text, *option.bounds)
        if number is None or option.type is float:
            return number
        return int(number) if number == int(number) else None
    if option.name == "sampler":
        return samplers.find_sampler(text) or None
    if option.name == "schedule":
        return samplers.find_schedule(text) or None
    if option.choices:
        other = text[:MAX_NAME_CHARS] if option.files else None
        return next((each for each in option.choices if each.casefold() == text.casefold()), other)
    return text[:MAX_NAME_CHARS]


def parse_number(text: str, low: float, high: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def unread_pairs(pairs: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Pairs that are not options or whose values are unusable, such as a 64-bit seed."""
    known_names = {name for option in OPTIONS.values() if option.name in settings for name in option.a1111}
    known_names |= {"Size"} & set(pairs) if "width" in settings else set()
    known_names |= {STRENGTH_NAME, RESIZE} if "hires_scale" in settings else set()
    known_names |= detailer_text.from_pairs(pairs)[1]
    return {name: value for name, value in pairs.items() if name not in known_names}
