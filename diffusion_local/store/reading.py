"""Recipes out of pictures and texts, ours and those of other tools, as settings that a form can take.

What is read comes from anywhere: it is bounded, and what makes no sense is left out. Pictures of A1111 and its kin
carry the text in a PNG chunk, or in the EXIF comment of a JPEG or WebP.
"""

import io
import json
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PIL

from diffusion_local import checks
from diffusion_local.completion import LORA_TAG, MAX_CLIP_SKIP
from diffusion_local.domain import Kind, Params
from diffusion_local.errors import InvalidParams
from diffusion_local.store import recipe
from diffusion_local.store.sources import FORMATS

MAX_TEXT = 200_000
MAX_PAIRS = 200
USER_COMMENT = 0x9286
#: A1111 name -> field of Params; it stays among the others where we have no such thing.
SAMPLING = {"Sampler": "sampler", "Schedule type": "schedule"}
MODEL_HASH = "Model hash"  # the first ten digits of the file's SHA-256
_NEGATIVE = "Negative prompt:"
#: A pair's name and value at their longest; what is longer is passed over.
_MAX_NAME, _MAX_VALUE, _MAX_QUOTED = 61, 2000, 20_000
_NAME = re.compile(r"\w[\w \-/]*")
_SPACES = re.compile(r"\s*")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
#: A1111's schedule names that are ours; older versions had them at the end of the sampler's name.
_SCHEDULES = {name.casefold(): name for name in checks.SCHEDULES}
#: A1111 name -> (field of Params, lowest, highest)
_NUMBERS = {
    "Steps": ("steps", 1, 1000),
    "CFG scale": ("guidance", 0, 100),
    "Distilled CFG Scale": ("guidance", 0, 100),
    "Seed": ("seed", 0, checks.MAX_SEED),
    "Denoising strength": ("strength", 0, 1),
    "Clip skip": ("clip_skip", 0, MAX_CLIP_SKIP),
    "Variation seed": ("variation_seed", 0, checks.MAX_SEED),
    "Variation seed strength": ("variation_strength", 0, 1),
    "Postprocess upscale by": ("scale", 1, 8),
}
_WHOLE = {"steps", "seed", "clip_skip", "variation_seed"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """``settings`` are fields of Params as far as they could be read, not checked against a model; ``facts`` those of
    our own pictures, ``others`` what another tool noted beside (also a sampler that we have not). ``text`` is the text
    as it was found."""

    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    text: str = ""


def read_picture(data: bytes) -> Recipe:
    """Of a picture's bytes. Raises InvalidParams for what is no picture, or carries no recipe."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.DecompressionBombWarning)  # no pixel is decoded
            with PIL.open(io.BytesIO(data), formats=FORMATS) as picture:
                ours, text = recipe.read(picture), text_of(picture)
    except UnidentifiedImageError:
        raise InvalidParams("image", f"must be a picture ({', '.join(FORMATS)}).") from None
    except Exception as error:  # decoders raise what they like for damaged files
        raise InvalidParams("image", f"must be a whole picture ({', '.join(FORMATS)}; {error}).") from None
    if ours:
        facts = ours.get("facts")
        known = Params.from_dict(ours["params"]).to_dict()
        return Recipe(known, facts if isinstance(facts, dict) else {}, {}, text)
    if not text.strip():
        raise InvalidParams("image", "carries no recipe that can be read.")
    return read_text(text)


def text_of(picture: PIL.Image) -> str:
    """A1111's text in an opened picture, or an empty one."""
    text = picture.info.get(recipe.A1111_KEY, "")
    if not isinstance(text, str) or not text:
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(USER_COMMENT, b"")
        text = decoded(comment) if isinstance(comment, bytes) else str(comment)
    return text[:MAX_TEXT]


def decoded(comment: bytes) -> str:
    """An EXIF comment: eight bytes that name the encoding, then the text."""
    encoding, text = comment[:8], comment[8 : 8 + 4 * MAX_TEXT]
    if encoding.startswith(b"UNICODE"):
        # EXIF leaves the order of bytes to the file; western text has its zeros on one side
        little = text[1::2].count(0) > text[0::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0")
    return (text if encoding.startswith(b"ASCII") else comment).decode("utf-8", "replace").strip("\0")


def read_text(text: str) -> Recipe:
    """Of A1111's text: prompt, ``Negative prompt: ...``, a last line of ``Name: value`` pairs; each may be missing."""
    text = text[:MAX_TEXT]
    lines = text.strip().splitlines()
    pairs: dict[str, str] = {}
    if lines and len(found := pairs_in(lines[-1])) >= 3:
        lines.pop()
        pairs = {name: unquoted(value) for name, value in found}
    prompt, mark, negative = "\n".join(lines).partition(_NEGATIVE)
    settings: dict[str, Any] = {"prompt": LORA_TAG.sub("", prompt).strip()[: checks.MAX_PROMPT_CHARS]}
    if mark and negative.strip():
        settings["negative"] = negative.strip()[: checks.MAX_PROMPT_CHARS]
    settings |= read_pairs(pairs)
    if loras := read_loras(prompt):
        settings["loras"] = loras
    used = {*_NUMBERS, "Size", "Model", "VAE", "Postprocess upscaler"}
    used |= {name for name, own in SAMPLING.items() if own in settings}
    return Recipe(settings, {}, {name: value for name, value in pairs.items() if name not in used}, text)


def pairs_in(line: str) -> list[tuple[str, str]]:
    """The first MAX_PAIRS of ``Name: value, Name: "value, quoted"``, in one pass along the line."""
    found: list[tuple[str, str]] = []
    place = 0
    while len(found) < MAX_PAIRS and (colon := line.find(":", place)) >= 0:
        name = line[max(place, colon - _MAX_NAME) : colon].rpartition(",")[2].strip()
        start = _SPACES.match(line, colon + 1).end()  # type: ignore[union-attr]
        quoted = _QUOTED.match(line, start, start + _MAX_QUOTED)
        if quoted and line[quoted.end() : quoted.end() + 1] in ("", ","):
            end, most = quoted.end(), _MAX_QUOTED
        else:
            comma = line.find(",", start)
            end, most = comma if comma >= 0 else len(line), _MAX_VALUE
        if _NAME.fullmatch(name) and end - start <= most:
            found.append((name, line[start:end]))
        place = end + 1
    return found


def read_pairs(pairs: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, (own, low, high) in _NUMBERS.items():
        number = number_in(pairs.get(name, ""), low, high)
        if number is not None:
            settings[own] = int(number) if own in _WHOLE else number
    if size := _SIZE.fullmatch(pairs.get("Size", "")):
        settings |= {"width": int(size[1]), "height": int(size[2])}
    sampler, schedule = sampler_in(pairs.get("Sampler", ""))
    schedule = _SCHEDULES.get(pairs.get("Schedule type", "").casefold(), schedule)
    for own, value in (
        ("sampler", sampler),
        ("schedule", schedule),
        ("model", pairs.get("Model", "")),
        ("vae", pairs.get("VAE", "")),
        ("upscaler", pairs.get("Postprocess upscaler", "")),
    ):
        if value:
            settings[own] = value[: checks.MAX_NAME_CHARS]
    if "upscaler" in settings:
        settings["kind"] = str(Kind.UPSCALE)
    return settings


def number_in(text: str, low: float, high: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def sampler_in(name: str) -> tuple[str, str]:
    """Our sampler and schedule for a name, empty where there is none."""
    for end, schedule in (*((f" {known}", _SCHEDULES[known]) for known in _SCHEDULES), ("", "")):
        plain = name.casefold().removesuffix(end) if end else name.casefold()
        if end and plain == name.casefold():
            continue
        for known in checks.SAMPLERS:
            if known.casefold() == plain:
                return known, schedule
    return "", ""


def read_loras(prompt: str) -> list[dict[str, Any]]:
    found: dict[str, float] = {}
    for name, weight in LORA_TAG.findall(prompt)[: checks.MAX_LORAS]:
        limit = checks.MAX_LORA_WEIGHT
        number = number_in(weight or "1", -limit, limit)
        if number is not None:
            found[name] = number
    return [{"name": name, "weight": weight} for name, weight in found.items()]


def unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')
