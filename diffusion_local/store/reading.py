"""Recipes out of pictures and texts, ours and those of other tools, as settings that a form can take.

What is read comes from anywhere: it is bounded, and what makes no sense is left out. Pictures of A1111 and its kin
carry the text in a PNG chunk, or in the EXIF comment of a JPEG or WebP.
"""

import io
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PIL

from diffusion_local.domain import Params
from diffusion_local.errors import InvalidParams
from diffusion_local.messages import message
from diffusion_local.options import a1111
from diffusion_local.options.validate import LORA_TAG
from diffusion_local.options.values import MAX_LORA_WEIGHT, MAX_LORAS, MAX_PROMPT_CHARS
from diffusion_local.store import recipe
from diffusion_local.store.sources import FORMATS

MAX_TEXT = 200_000
MAX_PAIRS = 200
USER_COMMENT = 0x9286
#: A pair's name and value at their longest; what is longer is passed over.
_MAX_NAME, _MAX_VALUE, _MAX_QUOTED = 61, 2000, 20_000
_NAME = re.compile(r"\w[\w \-/]*")
_SPACES = re.compile(r"\s*")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


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
        raise InvalidParams("image", message("not_a_picture", formats=list(FORMATS))) from None
    except Exception as error:  # decoders raise what they like for damaged files
        raise InvalidParams("image", message("whole_picture", what=list(FORMATS), error=error)) from None
    if ours:
        facts = ours.get("facts")
        known = Params.from_dict(ours["params"]).to_dict()
        return Recipe(known, facts if isinstance(facts, dict) else {}, {}, text)
    if not text.strip():
        raise InvalidParams("image", message("no_recipe"))
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
        pairs = {name: a1111.unquoted(value) for name, value in found}
    prompt, mark, negative = "\n".join(lines).partition(a1111.NEGATIVE)
    settings: dict[str, Any] = {"prompt": LORA_TAG.sub("", prompt).strip()[:MAX_PROMPT_CHARS]}
    if mark and negative.strip():
        settings["negative"] = negative.strip()[:MAX_PROMPT_CHARS]
    settings |= a1111.settings_in(pairs)
    if loras := read_loras(prompt):
        settings["loras"] = loras
    return Recipe(settings, {}, a1111.not_read(pairs, settings), text)


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


def read_loras(prompt: str) -> list[dict[str, Any]]:
    found: dict[str, float] = {}
    for name, weight in LORA_TAG.findall(prompt)[:MAX_LORAS]:
        limit = MAX_LORA_WEIGHT
        number = a1111.number_in(weight or "1", -limit, limit)
        if number is not None:
            found[name] = number
    return [{"name": name, "weight": weight} for name, weight in found.items()]
