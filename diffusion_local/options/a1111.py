"""A recipe in A1111's form, both ways: the prompt, ``Negative prompt: ...``, then one line of ``Name: value`` pairs.

Which name an option has there is declared in the table. The form is the one that AUTOMATIC1111's web UI writes into
the PNG text chunk ``parameters``.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from diffusion_local import __version__
from diffusion_local.options import samplers
from diffusion_local.options.option import Option
from diffusion_local.options.table import OPTIONS, Params
from diffusion_local.options.types import Kind, exact
from diffusion_local.options.values import MAX_NAME_CHARS

NEGATIVE = "Negative prompt:"
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MODEL_HASH = "Model hash"  # the first ten digits of the file's SHA-256
#: Names in recipes that ask for nothing.
NOTES = (MODEL_HASH, "VAE hash", "Lora hashes", "TI hashes", "Version", "version", "Pipeline", "Parser", "Operations")
#: A1111's own order of the names that it writes; further ones follow in the order of the table.
ORDER = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", MODEL_HASH, "Model", "VAE hash", "VAE",
    "Denoising strength", "Clip skip", "Variation seed", "Variation seed strength", "Postprocess upscale by",
    "Postprocess upscaler",
)  # fmt: skip
#: A1111's names of options that are one of a few values; a value that we do not have is told as not read.
CHOICES = {name: option.name for option in OPTIONS.values() if option.choices for name in option.a1111}


# -- written --------------------------------------------------------------------------------------------------------


def text(params: Params, facts: Mapping[str, Any] | None = None) -> str:
    """The recipe as A1111 writes it. ``facts`` have hashes of the files that were used."""
    facts = facts or {}
    found = {
        "Size": f"{params.width}x{params.height}",
        MODEL_HASH: facts.get("model_hash"),
        "VAE hash": facts.get("vae_hash"),
        **pairs(params),
    }
    order = {name: place for place, name in enumerate(ORDER)}
    found = dict(sorted(found.items(), key=lambda pair: order.get(pair[0], len(order))))
    found |= {
        "Lora hashes": listed(facts.get("lora_hashes", {})),
        "TI hashes": listed(facts.get("embedding_hashes", {})),
        "Version": f"diffusion-local {__version__}",
    }
    tags = "".join(f" <lora:{lora.name}:{exact(lora.weight)}>" for lora in params.loras)
    lines = [params.prompt + tags]
    if params.negative:
        lines.append(f"{NEGATIVE} {params.negative}")
    lines.append(", ".join(f"{name}: {quoted(str(value))}" for name, value in found.items() if value not in (None, "")))
    return "\n".join(lines)


def pairs(params: Params) -> dict[str, str]:
    """The options that A1111 has names for, where they apply and are set."""
    written = {}
    for name, option in OPTIONS.items():
        value = getattr(params, name)
        if option.a1111 and params.kind in option.kinds and option.is_set(value, params.kind):
            written[option.a1111[0]] = exact(value) if option.type is float else str(value)
    return written


def listed(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {digest}" for name, digest in hashes.items())


def quoted(text: str) -> str:
    """A value that holds a comma, colon or line break is written as a JSON string, as A1111 does."""
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')


# -- read -----------------------------------------------------------------------------------------------------------


def settings_in(found: Mapping[str, str]) -> dict[str, Any]:
    """The options that the pairs of a recipe hold, by our names; a value that makes no sense is left out."""
    settings: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        for theirs in option.a1111:
            value = value_in(option, found.get(theirs, ""))
            if value is not None:
                settings[name] = value
    if size := SIZE.fullmatch(found.get("Size", "")):
        settings |= {"width": int(size[1]), "height": int(size[2])}
    sampler, schedule = samplers.split(found.get("Sampler", ""))
    if sampler:
        settings["sampler"] = sampler
    if schedule and "schedule" not in settings:
        settings["schedule"] = schedule
    if "upscaler" in settings:
        settings["kind"] = str(Kind.UPSCALE)
    return settings


def value_in(option: Option, text: str) -> Any:
    """The value that a text holds for an option, or None."""
    if not text:
        return None
    if option.is_number:
        number = number_in(text, *option.bounds)
        return number if number is None or option.type is float else int(number)
    if option.name == "sampler":
        return samplers.sampler_named(text) or None
    if option.name == "schedule":
        return samplers.schedule_named(text) or None
    if option.choices:
        return next((each for each in option.choices if each.casefold() == text.casefold()), None)
    return text[:MAX_NAME_CHARS]


def number_in(text: str, low: float, high: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def not_read(found: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """The pairs that are none of our options, or whose value we do not have, such as a seed of 64 bits."""
    ours = {name for option in OPTIONS.values() if option.name in settings for name in option.a1111}
    ours |= {"Size"} & set(found) if "width" in settings else set()
    return {name: value for name, value in found.items() if name not in ours}
